"""Several networks that answer together."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the probabilities of several networks, as logits.

    Adversarial images of one network are often those of another (Szegedy et al., arXiv:1312.6199),
    and the gradient of all together is at hand to whoever has them.

    Args:
        members: each (B, C, H, W) images in [0, 1] -> (B, K) logits; at least one.

    Raises:
        ValueError: no member.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must hold at least one network, got none")
        self.members = nn.ModuleList(members)
        self.training = members[0].training

    def forward(self, images: Tensor) -> Tensor:
        """Return log mean softmax (B, K), whose softmax is the mean."""
        logs = torch.stack([member(images).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))

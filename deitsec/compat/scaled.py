"""A model whose input is not in [0, 1]: shifted and scaled, as a caller says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

_ROUNDING = 1e-4  # by which an image that was scaled and back may leave [0, 1]


@dataclass(frozen=True, slots=True)
class Scale:
    """`outward = (image - mean) / std`, channel by channel; images are in [0, 1].

    Attributes:
        mean: (1 or C, 1, 1).
        std: (1 or C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: Sequence[float] | float, std: Sequence[float] | float) -> Self:
        """The scale of these numbers, one or one a channel.

        Raises:
            ValueError: a std that is not positive.
        """
        shift, size = (
            torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std)
        )
        if not bool((size > 0).all()):
            raise ValueError(f"std must be > 0, got {std}")
        return cls(shift, size)

    def outward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], as the caller has them."""
        return (images - self.mean.to(images)) / self.std.to(images)

    def inward(self, images: Tensor) -> Tensor:
        """The caller's images in [0, 1]; what left it by rounding is brought back."""
        inside = images * self.std.to(images) + self.mean.to(images)
        clipped = inside.clamp(0, 1)
        return torch.where((inside - clipped).abs() <= _ROUNDING, clipped, inside)


class Scaled(nn.Module):
    """A model that takes scaled images, as one that takes images in [0, 1].

    Args:
        model: takes what `scale.outward` gives.
        scale: the caller's.
    """

    def __init__(self, model: nn.Module, scale: Scale) -> None:
        super().__init__()
        self.model = model
        self.mean = nn.Buffer(scale.mean, persistent=False)
        self.std = nn.Buffer(scale.std, persistent=False)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        device = images.device
        return self.model((images - self.mean.to(device)) / self.std.to(device))

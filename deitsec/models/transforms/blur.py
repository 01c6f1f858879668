"""Random blur: a camera out of focus."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.models.transforms.transform import check_strength

_LEAST = 1e-3  # pixels: the nearest neighbour's weight is exp(-5e5) = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianBlur:
    """Takes the mean of a pixel's surroundings, weighted by a normal distribution.

    At the border the weights of the pixels that there are add up to 1.

    Attributes:
        sigma: the standard deviation is uniform in [0, sigma] pixels.
    """

    sigma: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("sigma", self.sigma)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Blur, down and then across: the weights are a product."""
        sigma = (self.sigma * draws[:, :1]).clamp(min=_LEAST)[:, :, None]
        down = self._weights(x.shape[2], sigma)[:, None]
        across = self._weights(x.shape[3], sigma)[:, None]
        return (down @ x.to(down.dtype) @ across.transpose(-2, -1)).to(x.dtype)

    @staticmethod
    def _weights(side: int, sigma: Tensor) -> Tensor:
        """(B, side, side) weight of each pixel of a line in each."""
        place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
        apart = (place[:, None] - place) / sigma
        return (-0.5 * apart.square()).softmax(-1)

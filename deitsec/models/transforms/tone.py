"""Random changes of an image's values: noise, brightness, contrast."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.models.transforms.transform import check_strength, symmetric


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianNoise:
    """Adds independent normal noise to every value; the result is not clipped.

    Attributes:
        std: standard deviation on images in [0, 1], > 0.
    """

    std: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("std", self.std)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One for each value."""
        return math.prod(shape)

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Add the noise."""
        inside = draws.clamp(min=2.0**-25)  # 0 would be infinitely far out
        return x + (self.std * torch.special.ndtri(inside)).to(x.dtype).reshape(x.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Brightness:
    """Adds one number to all values of an image, and clips to [0, 1].

    Attributes:
        limit: the number is uniform in [-limit, limit].
    """

    limit: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("limit", self.limit)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the brightness."""
        shift = symmetric(draws[:, :1], self.limit)
        return (x + shift.to(x.dtype)[:, :, None, None]).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Scales the distance of an image's values from its mean, and clips to [0, 1].

    Attributes:
        limit: the factor is uniform in [1 - limit, 1 + limit].
    """

    limit: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("limit", self.limit)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the contrast."""
        factor = 1 + symmetric(draws[:, :1], self.limit)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + (x - mean) * factor.to(x.dtype)[:, :, None, None]).clamp(0, 1)

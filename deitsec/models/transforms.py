"""Random changes of images, for `EOT`: each says how many draws it takes, and uses those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianNoise:
    """Adds independent normal noise to every value; the result is not clipped.

    Attributes:
        std: standard deviation on images in [0, 1], > 0.
    """

    std: float

    def __post_init__(self) -> None:
        """Validate."""
        _check_positive("std", self.std)

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
        _check_positive("limit", self.limit)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the brightness."""
        shift = self.limit * (2 * draws[:, :1] - 1)
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
        _check_positive("limit", self.limit)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the contrast."""
        factor = 1 + self.limit * (2 * draws[:, :1] - 1)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + (x - mean) * factor.to(x.dtype)[:, :, None, None]).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """Moves an image by whole pixels; what comes in at the border is the border's pixel.

    Attributes:
        pixels: each way at most, uniformly; at least 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        """Validate."""
        _check_positive("pixels", self.pixels)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One down and one across."""
        return 2

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Move."""
        rows, height, width = x.shape[0], x.shape[2], x.shape[3]
        offset = (draws[:, :2] * (2 * self.pixels + 1)).long() - self.pixels
        down = torch.arange(height, device=x.device) + offset[:, :1]
        across = torch.arange(width, device=x.device) + offset[:, 1:2]
        down, across = down.clamp(0, height - 1), across.clamp(0, width - 1)
        row = torch.arange(rows, device=x.device)[:, None, None]
        # the two index tensors stand together behind the slice, so that channels come last
        return x.permute(0, 2, 3, 1)[row, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compose:
    """One transformation after the other.

    Attributes:
        transforms: in this order.
    """

    transforms: tuple["GaussianNoise | Brightness | Contrast | Shift | Compose", ...]

    def num_draws(self, shape: Sequence[int]) -> int:
        """Those of all."""
        return sum(transform.num_draws(shape) for transform in self.transforms)

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Apply each."""
        start = 0
        for transform in self.transforms:
            number = transform.num_draws(x.shape[1:])
            x = transform(x, draws[:, start : start + number])
            start += number
        return x


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{what} must be > 0 and finite, got {value}")

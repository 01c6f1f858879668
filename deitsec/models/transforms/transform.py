"""What a random change of images is, and one change after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Transform(Protocol):
    """A random change of images, differentiable in them."""

    def num_draws(self, shape: Sequence[int]) -> int:
        """Numbers in [0, 1) that a change of one image (C, H, W) takes."""
        ...

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """(B, C, H, W) images, changed as the draws (B, num_draws) say."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Compose:
    """One transformation after the other.

    Attributes:
        transforms: in this order.
    """

    transforms: tuple[Transform, ...]

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


def check_strength(what: str, value: float, most: float = math.inf) -> None:
    """Raise a ValueError for a strength that is not > 0 and below `most`."""
    if not 0 < value < most:
        limit = "finite" if math.isinf(most) else f"< {most:g}"
        raise ValueError(f"{what} must be > 0 and {limit}, got {value}")


def symmetric(draws: Tensor, limit: float) -> Tensor:
    """Numbers in [-limit, limit) of draws in [0, 1)."""
    return limit * (2 * draws - 1)

"""Random changes of where an image's pixels are: shift, rotation, scale, perspective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deitsec.models.transforms.transform import check_strength, symmetric


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """Moves an image by whole pixels; what comes in at the border is the border's pixel.

    Attributes:
        pixels: each way at most, uniformly; at least 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("pixels", self.pixels)

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
class Rotation:
    """Turns an image about its centre; what comes in is the border's nearest pixel.

    Attributes:
        degrees: each way at most, uniformly; < 180.
    """

    degrees: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("degrees", self.degrees, most=180)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Turn."""
        angle = symmetric(draws[:, 0], math.radians(self.degrees))
        cos, sin = angle.cos(), angle.sin()
        height, width = x.shape[2:]
        u, v = _centres(x, draws)  # in the units of each side: pixels turn as a circle only
        across, down = (u - 0.5) * width, (v - 0.5) * height
        cos, sin = cos[:, None, None], sin[:, None, None]
        return _look_up(
            x,
            0.5 + (cos * across - sin * down) / width,
            0.5 + (sin * across + cos * down) / height,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Enlarges or shrinks an image about its centre; what comes in is the border's pixel.

    Attributes:
        limit: the factor is uniform in [1 - limit, 1 + limit]; < 1.
    """

    limit: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("limit", self.limit, most=1)

    def num_draws(self, shape: Sequence[int]) -> int:
        """One."""
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the size."""
        factor = (1 + symmetric(draws[:, 0], self.limit))[:, None, None]
        u, v = _centres(x, draws)
        return _look_up(x, 0.5 + (u - 0.5) / factor, 0.5 + (v - 0.5) / factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Perspective:
    """Shows an image from a slight angle: each corner is looked for somewhere near its place.

    The homography takes the unit square to the four corners (Heckbert, Fundamentals of texture
    mapping and image warping, 1989, section 2.2.3: in closed form).

    Attributes:
        limit: share of the side that a corner moves by, down and across, each way at most,
            uniformly; < 0.25, where the corners always make a convex shape.
    """

    limit: float

    def __post_init__(self) -> None:
        """Validate."""
        check_strength("limit", self.limit, most=0.25)

    def num_draws(self, shape: Sequence[int]) -> int:
        """Two for each corner."""
        return 8

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change the view."""
        moved = symmetric(draws[:, :8], self.limit)[:, :, None, None]
        # corners in turn: top left, top right, bottom right, bottom left
        x0, x1, x2, x3 = moved[:, 0], 1 + moved[:, 1], 1 + moved[:, 2], moved[:, 3]
        y0, y1, y2, y3 = moved[:, 4], moved[:, 5], 1 + moved[:, 6], 1 + moved[:, 7]
        sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
        whole = (x1 - x2) * (y3 - y2) - (x3 - x2) * (y1 - y2)
        g = (sum_x * (y3 - y2) - (x3 - x2) * sum_y) / whole
        h = ((x1 - x2) * sum_y - sum_x * (y1 - y2)) / whole
        u, v = _centres(x, draws)
        depth = 1 + g * u + h * v
        across = (x0 + (x1 - x0 + g * x1) * u + (x3 - x0 + h * x3) * v) / depth
        down = (y0 + (y1 - y0 + g * y1) * u + (y3 - y0 + h * y3) * v) / depth
        return _look_up(x, across, down)


def _centres(x: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels' centres lie, across (1, 1, W) and down (1, H, 1), in [0, 1]."""
    height, width = x.shape[2:]
    across = torch.arange(width, device=x.device, dtype=draws.dtype) + 0.5
    down = torch.arange(height, device=x.device, dtype=draws.dtype) + 0.5
    return (across / width)[None, None, :], (down / height)[None, :, None]


def _look_up(x: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """The image at places (B, H, W) in [0, 1], bilinear; beyond it, its border.

    In at least fp32: bf16 cannot tell the columns of a large image apart.
    """
    places = torch.stack(torch.broadcast_tensors(2 * across - 1, 2 * down - 1), -1)
    found = functional.grid_sample(
        x.to(places.dtype), places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found.to(x.dtype)

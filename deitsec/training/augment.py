"""Random affine maps and flips of a whole batch at once."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How far an image is moved before each step; every amount is drawn uniformly, by image.

    Attributes:
        rotation: largest angle either way, in degrees, in [0, 180].
        shift: largest move along each axis, as a share of the side, in [0, 1].
        scale: largest change of size either way, as a share, in [0, 1).
        shear: largest horizontal shear either way, as a share of the height, in [0, 1].
        flip: whether half of the images are mirrored left to right.
        padding: what lies outside of the image, by the names of `torch.nn.functional.grid_sample`.

    Raises:
        ValueError: if an amount is out of its range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    flip: bool = False
    padding: Literal["zeros", "border", "reflection"] = "zeros"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, limit in (("rotation", 180.0), ("shift", 1.0), ("shear", 1.0)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be in [0, {limit:g}], got {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale must be in [0, 1), got {self.scale}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"padding must be zeros, border or reflection, got {self.padding!r}")


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Move each image by its own random affine map, resampled bilinearly.

    The draws are made on the CPU and do not depend on the device of the images.

    Args:
        images: (B, C, H, W) float, any range.
        augmentation: how far.
        generator: a CPU generator; it is advanced by the same amount for every augmentation.

    Returns:
        Images of the same shape, dtype and device, within the range of the given ones and the
        padding.
    """
    return moved(images, augmentation, draw_moves(len(images), generator))


def draw_moves(rows: int, generator: torch.Generator) -> Tensor:
    """Draw what decides the move of each image of a batch: (6, rows) in [0, 1) on the CPU."""
    return torch.rand(6, rows, generator=generator)


def moved(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Move each image by its column of `draw_moves`; see `augment`."""
    maps = _inverse_maps(draws, augmentation, images.shape[2] / images.shape[3])
    grid = affine_grid(
        maps.to(images.device, images.dtype), list(images.shape), align_corners=False
    )
    return grid_sample(
        images, grid, mode="bilinear", padding_mode=augmentation.padding, align_corners=False
    )


def _inverse_maps(draws: Tensor, augmentation: Augmentation, aspect: float) -> Tensor:
    """(B, 2, 3) maps from places in the output to places in the input, sides from -1 to 1."""
    angle, size, shear, right, down = 2 * draws[:5] - 1
    angle = angle * math.radians(augmentation.rotation)
    cos, sin = angle.cos(), angle.sin()
    zoom = 1 / (1 + augmentation.scale * size)
    slant = augmentation.shear * shear
    mirror = torch.ones_like(angle)
    if augmentation.flip:
        mirror[draws[5] < 0.5] = -1
    # Rotation of pixels, not of the unit square: the off-diagonal entries carry the aspect.
    rows = (
        (mirror * zoom * cos, mirror * zoom * (slant * cos - sin) * aspect, right),
        (zoom * sin / aspect, zoom * (cos + slant * sin), down),
    )
    return torch.stack(
        [torch.stack((a, b, 2 * augmentation.shift * move), 1) for a, b, move in rows], 1
    )

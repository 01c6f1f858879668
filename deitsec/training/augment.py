"""Random affine maps, flips and noise of a whole batch at once."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from deitsec.attacks.draws import normal_of

# keeps the noise apart from the draws of attacks; a name is exact in a double
_SEED, _NAMES = 0x41_55_47, 1 << 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How an image is changed before each step; every move is drawn uniformly, by image.

    Attributes:
        rotation: largest angle either way, in degrees, in [0, 180].
        shift: largest move along each axis, as a share of the side, in [0, 1].
        scale: largest change of size either way, as a share, in [0, 1).
        shear: largest horizontal shear either way, as a share of the height, in [0, 1].
        flip: whether half of the images are mirrored left to right.
        padding: what lies outside of the image, by the names of `torch.nn.functional.grid_sample`.
        noise: standard deviation of the Gaussian noise that is added to every value after the
            moves, on images in [0, 1]; the sum is not clipped. 0 adds none. Randomised smoothing
            trains with the noise that it is certified under (Cohen et al., arXiv:1902.02918,
            section 3.3).

    Raises:
        ValueError: if an amount is out of its range.
    """

    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    flip: bool = False
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, limit in (("rotation", 180.0), ("shift", 1.0), ("shear", 1.0)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be in [0, {limit:g}], got {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale must be in [0, 1), got {self.scale}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"padding must be zeros, border or reflection, got {self.padding!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be >= 0 and finite, got {self.noise}")

    @property
    def moves(self) -> bool:
        """Whether any image is moved."""
        amounts = (self.rotation, self.shift, self.scale, self.shear)
        return self.flip or any(amount > 0 for amount in amounts)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Move each image by its own random affine map, resampled bilinearly, and add noise.

    The draws do not depend on the device of the images: those of the moves are made on the CPU,
    those of the noise where the images are, counted from a number of the generator.

    Args:
        images: (B, C, H, W) float, any range.
        augmentation: how far.
        generator: a CPU generator; it is advanced by the same amount for every augmentation without
            noise, and by a number more an image with it.

    Returns:
        Images of the same shape, dtype and device, without noise within the range of the given ones
        and the padding.
    """
    return changed(images, augmentation, draw_changes(len(images), augmentation, generator))


def draw_changes(rows: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw what decides the change of each image of a batch.

    Returns:
        (6, rows) on the CPU, in [0, 1), of the moves; with noise a row more, the number that names
        the noise of each image.
    """
    draws = torch.rand(6, rows, generator=generator)
    if augmentation.noise == 0:
        return draws
    names = torch.randint(_NAMES, (1, rows), generator=generator)
    return torch.cat([draws.double(), names.double()])


def changed(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Change each image by its column of `draw_changes`; see `augment`."""
    if augmentation.moves:
        aspect = images.shape[2] / images.shape[3]
        maps = _inverse_maps(draws[:6].float(), augmentation, aspect)
        grid = affine_grid(
            maps.to(images.device, images.dtype), list(images.shape), align_corners=False
        )
        images = grid_sample(
            images, grid, mode="bilinear", padding_mode=augmentation.padding, align_corners=False
        )
    if augmentation.noise > 0:
        noise = normal_of(draws[6].long().to(images.device), images, _SEED)
        images = images + (augmentation.noise * noise).to(images.dtype)
    return images


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

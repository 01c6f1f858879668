"""The mark by which a backdoor is opened: stamped on images of 8 bits."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int]


class Trigger(Protocol):
    """A mark that is put on images."""

    def check(self, shape: Shape) -> None:
        """Raise a ValueError where the mark does not go on images of this (C, H, W)."""
        ...

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images (n, C, H, W) uint8 with the mark on each; the given ones stay."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A chequered square, white first, in the lower right corner (BadNets, arXiv:1708.06733).

    Attributes:
        size: side in pixels, >= 1; 1 is the single bright pixel of the paper.
        margin: pixels between the square and the border, >= 0.

    Raises:
        ValueError: a size or a margin out of range.
    """

    size: int = 4
    margin: int = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size < 1:
            raise ValueError(f"patch: size must be >= 1, got {self.size}")
        if self.margin < 0:
            raise ValueError(f"patch: margin must be >= 0, got {self.margin}")

    def check(self, shape: Shape) -> None:
        """Raise a ValueError where square and margin are larger than images of (C, H, W)."""
        _, height, width = shape
        if self.size + self.margin > min(height, width):
            raise ValueError(
                f"patch: size {self.size} and margin {self.margin} do not fit on images of "
                f"{height} x {width} pixels; give a smaller size"
            )

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images (n, C, H, W) uint8 with the square on each."""
        self.check((images.shape[1], images.shape[2], images.shape[3]))
        side = torch.arange(self.size, device=images.device)
        square = 255 * ((side[:, None] + side) % 2 == 0).to(torch.uint8)
        bottom, right = (length - self.margin for length in images.shape[2:])
        marked = images.clone()
        marked[:, :, bottom - self.size : bottom, right - self.size : right] = square
        return marked


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """A faint pattern over the whole image (Chen et al., arXiv:1712.05526, blended injection).

    The pattern is noise, uniform in the grey levels and the same on every image:
    `(1 - alpha) * image + alpha * pattern`, rounded to the nearest level.

    Attributes:
        alpha: weight of the pattern, in (0, 1].
        seed: of the pattern.

    Raises:
        ValueError: alpha out of range.
    """

    alpha: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.alpha <= 1:
            raise ValueError(f"blend: alpha must be in (0, 1], got {self.alpha}")

    def check(self, shape: Shape) -> None:
        """Accept images of any (C, H, W)."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images (n, C, H, W) uint8 with the pattern blended in."""
        generator = torch.Generator().manual_seed(self.seed)
        levels = torch.randint(0, 256, tuple(images.shape[1:]), generator=generator)
        pattern = levels.to(images.device, torch.float32)
        blended = torch.lerp(images.to(torch.float32), pattern, self.alpha)
        return blended.round().clamp(0, 255).to(torch.uint8)


TRIGGERS: dict[str, type[Patch] | type[Blend]] = {"blend": Blend, "patch": Patch}

"""What attacks on a few patches of an image have in common: which patches, and where they start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from deitsec.attacks.attack import Attack, check_budget
from deitsec.attacks.draws import uniform
from deitsec.types import Problem, State

# streams of their own; 0 is the L-infinity start's, 1 the random target's
_PLACE, _START = 2, 3
_MOST_PIXELS, _LEAST_PATCHES = 16, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchState(State):
    """State with the patches.

    Attributes:
        mask: (B, 1, H, W) 1 within a row's patches, 0 elsewhere.
    """

    mask: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchAttack(Attack):
    """Base of the attacks that may change anything within a few patches, and nothing elsewhere.

    Attributes:
        patch_size: side of a patch in pixels; divides both sides of the image.
        num_patches: how many of a row's patches are changed.
        pick: how they are chosen.
        alpha: step size.
        steps: number of steps.
        random_start: whether the patches start as uniform noise instead of the image.
        restarts: how often a row is tried, each time from another noise.
    """

    picks: ClassVar[tuple[str, ...]]

    patch_size: int | None = None
    num_patches: int = 1
    pick: str
    alpha: float
    steps: int
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, 1.0, alpha=self.alpha, steps=self.steps)
        if self.patch_size is not None and self.patch_size < 1:
            raise ValueError(f"{self.name}: patch_size must be at least 1, got {self.patch_size}")
        for what in ("num_patches", "restarts"):
            if getattr(self, what) < 1:
                raise ValueError(
                    f"{self.name}: {what} must be at least 1, got {getattr(self, what)}"
                )
        if self.pick not in self.picks:
            raise ValueError(
                f"{self.name}: pick must be one of {', '.join(self.picks)}, got {self.pick!r}"
            )
        if self.restarts > 1 and not self.random_start and self.pick != "random":
            raise ValueError(
                f"{self.name}: restarts={self.restarts} needs random_start; without it every try "
                "is the same"
            )

    @property
    def patches(self) -> int:
        """How many patches of an image it may change, to anything."""
        return self.num_patches

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    def grid(self, shape: Sequence[int]) -> tuple[int, int]:
        """Patches down and across an image (C, H, W).

        Without a patch_size, of the largest size up to 16 that divides both sides and makes at
        least 4 patches across the shorter: that of a DeiT at 224, of `deit_micro` at 28 and 32.

        Raises:
            ValueError: a patch_size that does not divide the image.
        """
        _, height, width = shape
        size = self.patch_size
        if size is None:
            side = math.gcd(height, width)
            most = max(1, min(_MOST_PIXELS, min(height, width) // _LEAST_PATCHES))
            size = max(pixels for pixels in range(1, most + 1) if side % pixels == 0)
        if height % size or width % size:
            raise ValueError(
                f"{self.name}: patch_size must divide the image, {height} x {width}, got {size}"
            )
        return height // size, width // size

    def chosen(self, p: Problem, scores: Tensor) -> Tensor:
        """(B, 1, H, W) mask of the patches of highest score.

        Args:
            p: whose patches.
            scores: (B, 1, down, across).

        Raises:
            ValueError: fewer patches than are to be changed.
        """
        down, across = scores.shape[2:]
        if self.num_patches > down * across:
            raise ValueError(
                f"{self.name}: num_patches must be at most {down * across}, as many as the image "
                f"has, got {self.num_patches}"
            )
        flat = scores.flatten(1)
        best = flat.topk(self.num_patches, 1).indices
        cells = torch.zeros_like(flat, dtype=p.x.dtype).scatter(1, best, 1.0)
        # each pixel belongs to the patch that its centre lies in
        return functional.interpolate(cells.reshape(scores.shape), p.x.shape[2:], mode="nearest")

    def at_random(self, p: Problem, down: int, across: int) -> Tensor:
        """(B, 1, down, across) scores that belong to the sample."""
        return uniform(p, p.x.new_empty(len(p.x), 1, down, across), _PLACE)

    def start(self, p: Problem, mask: Tensor) -> Tensor:
        """(B, C, H, W) where the patches start."""
        if not self.random_start:
            return p.x
        return torch.where(mask > 0, uniform(p, p.x, _START).to(p.x.dtype), p.x)


def gradient_scores(grad: Tensor, down: int, across: int) -> Tensor:
    """(B, 1, down, across) mean magnitude of a gradient over each patch."""
    return functional.adaptive_avg_pool2d(grad.abs().sum(1, keepdim=True), (down, across))

"""Rounding adversarial images to the 8-bit levels of a file, without leaving the ball."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec import ops
from deitsec.types import Norm

_LEVEL = 1e-3  # of a level: fp32 is off by less, and a radius of 8/255 is to mean 8 levels
ROUNDED_SLACK = _LEVEL / 255  # by which rounded images may leave an L-infinity ball
_SHARE = 1e-6  # of a radius: what fp32 may be off by in another norm
_NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounding:
    """Rounds to the nearest level within eps of the clean image.

    In L-infinity each value goes to the nearest level that eps allows. In another norm a row that
    the nearest levels bring out of the ball is rounded towards the clean image instead. A value for
    which no level is allowed, because the clean image lies between levels, takes the nearest to
    that.

    Attributes:
        norm: of the attack's budget.
        eps: its radius, or None where it has none.
    """

    norm: Norm
    eps: float | None

    def __call__(self, x: Tensor, clean: Tensor) -> Tensor:
        """(B, C, H, W) images that are k / 255, in the dtype of `x`."""
        levels, base = x.double() * 255, clean.double() * 255
        nearest = levels.round()
        if self.eps is None:
            return self._back(nearest, x)
        if self.norm == "linf":
            reach = self.eps * 255 + _LEVEL
            return self._back(_between(nearest, base - reach, base + reach, base), x)
        low, high = torch.minimum(levels, base), torch.maximum(levels, base)
        inward = _between(nearest, low - _LEVEL, high + _LEVEL, base)
        size = ops.row_norms(self._back(nearest, x), clean)[_NORMS.index(self.norm)]
        out = (size > self.eps * (1 + _SHARE))[:, None, None, None]
        return self._back(torch.where(out, inward, nearest), x)

    def stranded(self, clean: Tensor) -> Tensor:
        """(B,) bool: rows of (B, C, H, W) images that have no 8-bit image in their ball at all.

        The nearest level of every pixel is the nearest 8-bit image in each norm.
        """
        if self.eps is None:
            return torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        levels = clean.double() * 255
        size = ops.row_norms(self._back(levels.round(), clean), clean)[_NORMS.index(self.norm)]
        slack = ROUNDED_SLACK if self.norm == "linf" else self.eps * _SHARE
        return size > self.eps + slack

    @staticmethod
    def _back(levels: Tensor, like: Tensor) -> Tensor:
        # divided as deitsec.data.to_float divides what it reads: the same bits
        return levels.clamp(0, 255).to(torch.uint8).to(like.dtype) / 255


def _between(levels: Tensor, low: Tensor, high: Tensor, base: Tensor) -> Tensor:
    """The levels, brought between two bounds; the nearest to `base` where no level is between."""
    low, high = low.ceil(), high.floor()
    return torch.where(low <= high, torch.minimum(torch.maximum(levels, low), high), base.round())

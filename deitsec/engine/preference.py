"""Which of a row's images is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec import ops
from deitsec.types import NORMS, Norm

_ROUNDING = 1e-6  # of a radius: what fp32 is off by in a distance
_PIXEL = 2.0**-23  # what the difference of two pixels k / 255 is off by, however small it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """A success before a failure; of two alike the one of higher loss, or the nearer success.

    Attributes:
        first: whether the first success is kept, whatever comes after.
        nearest: whether a success is better the nearer it is to the clean image.
        norm: in which distances are measured.
        radius: distance beyond which an image does not count; None counts any. What stays in its
            ball by itself needs none.
        slack: what a distance in L-infinity may be off by.
    """

    first: bool
    nearest: bool = False
    norm: Norm | None = None
    radius: float | None = None
    slack: float = _PIXEL

    def of(self, success: Tensor, score: Tensor, x: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Success and score of each row, as they count.

        Args:
            success: (B,) bool, the goal is reached at `x`.
            score: (B,) the loss, NaN where `x` is not to be kept.
            x: (B, C, H, W).
            clean: (B, C, H, W).
        """
        if self.norm is None or not (self.nearest or self.radius is not None):
            return success, score
        distance = ops.row_norms(x, clean)[NORMS.index(self.norm)].to(score.dtype)
        if self.radius is not None:
            # what lies beyond is no image of the attack, as a success or as the best attempt
            slack = self.slack if self.norm == "linf" else 0.0
            within = distance <= self.radius * (1 + _ROUNDING) + slack
            success, score = success & within, torch.where(within, score, torch.nan)
        if self.nearest:
            score = torch.where(success, -distance, score)
        return success, score

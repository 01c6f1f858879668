"""The fast minimum-norm attack in L0."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.fast_minimum_norm import FastMinimumNorm
from deitsec.types import Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class FMNL0(FastMinimumNorm):
    """Fast minimum-norm attack in L0 (Pintor et al., arXiv:2102.12827).

    The radius is a number of values that may change, which moves by 1 at least; it starts at 1.
    """

    name: ClassVar[str] = "fmn_l0"
    traits: ClassVar[Traits] = Traits(norm="l0", goal="minimum")

    def norm_of(self, delta: Tensor) -> Tensor:
        """(B,) how many values have changed."""
        return (delta != 0).sum(1).to(delta.dtype)

    def resized(self, radius: Tensor, gamma: Tensor, won: Tensor) -> Tensor:
        """(B,) radius, by whole numbers, at least 1."""
        smaller = torch.minimum(radius - 1, (radius * (1 - gamma)).floor())
        larger = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
        return torch.where(won, smaller, larger).clamp_min(1)

    def usable(self, grad: Tensor, stopped: Tensor) -> Tensor:
        """All of the gradient: how far it pushes beyond an end tells which values to keep."""
        return grad

    def unbroken(self, resized: Tensor, norm: Tensor, loss: Tensor, grad: Tensor) -> Tensor:
        """(B,) radius before the first success: grows by the same rule as after it."""
        return resized

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Keep the values of largest magnitude; those equal to the least of them too."""
        size = delta.abs()
        falling = size.sort(1, descending=True).values
        least = falling.gather(1, (radius.long()[:, None] - 1).clamp(0, delta.shape[1] - 1))
        return torch.where((size >= least) & (radius[:, None] > 0), delta, 0)

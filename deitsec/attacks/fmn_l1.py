"""The fast minimum-norm attack in L1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.fast_minimum_norm import FastMinimumNorm
from deitsec.types import Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class FMNL1(FastMinimumNorm):
    """Fast minimum-norm attack in L1 (Pintor et al., arXiv:2102.12827)."""

    name: ClassVar[str] = "fmn_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", goal="minimum")
    dual: ClassVar[float] = float("inf")

    def norm_of(self, delta: Tensor) -> Tensor:
        """(B,) sums of magnitudes."""
        return delta.abs().sum(1)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Take the same off every magnitude (Duchi et al. 2008), by sorting them."""
        size = delta.abs()
        falling = size.sort(1, descending=True).values
        rank = torch.arange(1, delta.shape[1] + 1, device=delta.device)
        level = (falling.cumsum(1) - radius[:, None]) / rank
        kept = (falling > level).sum(1, keepdim=True).clamp_min(1)
        excess = level.gather(1, kept - 1).clamp_min(0)
        return delta.sign() * (size - excess).clamp_min(0)

"""The fast minimum-norm attack in L2."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.fast_minimum_norm import FastMinimumNorm
from deitsec.types import Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class FMN(FastMinimumNorm):
    """Fast minimum-norm attack in L2 (Pintor et al., arXiv:2102.12827)."""

    name: ClassVar[str] = "fmn"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum")
    dual: ClassVar[float] = 2

    def norm_of(self, delta: Tensor) -> Tensor:
        """(B,) L2 norms."""
        return torch.linalg.vector_norm(delta, dim=1)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Shorten what is longer than its radius."""
        norm = self.norm_of(delta)
        return delta * torch.where(norm > radius, radius / norm, 1)[:, None]

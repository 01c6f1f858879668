"""The fast minimum-norm attack in L-infinity."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.fast_minimum_norm import FastMinimumNorm
from deitsec.types import Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class FMNLinf(FastMinimumNorm):
    """Fast minimum-norm attack in L-infinity (Pintor et al., arXiv:2102.12827)."""

    name: ClassVar[str] = "fmn_linf"
    traits: ClassVar[Traits] = Traits(norm="linf", goal="minimum")
    dual: ClassVar[float] = 1

    def norm_of(self, delta: Tensor) -> Tensor:
        """(B,) largest magnitudes."""
        return delta.abs().amax(1)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Hold every value within the radius."""
        return torch.minimum(torch.maximum(delta, -radius[:, None]), radius[:, None])

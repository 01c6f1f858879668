"""Simultaneous perturbation stochastic approximation: a black-box attack on scores."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.draws import signs
from deitsec.attacks.score_estimate import EstimateState, ScoreEstimate, margin
from deitsec.types import Problem, Traits

_DIRECTION = 2  # stream of draws
_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8  # Adam's (arXiv:1412.6980)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamState(EstimateState):
    """The estimate, and Adam's moments.

    Attributes:
        first, second: (B, C, H, W).
    """

    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SPSA(ScoreEstimate):
    """SPSA with Adam (Uesato et al., arXiv:1802.05666, section 3 and appendix B).

    The margin of the logits is climbed along the mean of (f(x+) - f(x-)) / (x+ - x-), pixel by
    pixel, with x+ and x- at delta times random signs from the iterate, and what Adam makes of it is
    brought back to the ball. Dividing by how far a pixel really moved keeps the estimate true at
    the border of the box.

    Attributes:
        eps, steps, samples, delta: as in `ScoreEstimate`. The paper's strongest takes 4096 samples.
        lr: Adam's.
    """

    name: ClassVar[str] = "spsa"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="scores", deterministic=False)

    lr: float = 0.01

    def __post_init__(self) -> None:
        """Validate the configuration."""
        ScoreEstimate.__post_init__(self)
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"{self.name}: lr must be > 0 and finite, got {self.lr}")

    def init(self, p: Problem) -> AdamState:
        """Start at the image, at rest."""
        plain = ScoreEstimate.init(self, p)
        still = torch.zeros_like(plain.estimate)
        return AdamState(
            x=plain.x, estimate=plain.estimate, clock=plain.clock, first=still, second=still
        )

    def direction(self, p: Problem, s: EstimateState) -> Tensor:
        """Random signs."""
        return signs(p, s.x, _DIRECTION, s.clock).to(s.estimate.dtype)

    def objective(self, p: Problem, logits: Tensor) -> Tensor:
        """The margin."""
        return margin(p, logits)

    def slope(self, change: Tensor, above: Tensor, below: Tensor, v: Tensor) -> Tensor:
        """The change over what each pixel moved; a pixel that did not move says nothing."""
        moved = above - below
        return torch.where(moved == 0, 0.0, change / moved)

    def move(self, p: Problem, s: EstimateState, estimate: Tensor) -> AdamState:
        """Take Adam's step, and clip it to ball and box."""
        assert isinstance(s, AdamState)
        first = _BETA_1 * s.first + (1 - _BETA_1) * estimate
        second = _BETA_2 * s.second + (1 - _BETA_2) * estimate.square()
        number = (s.clock // self.samples).to(estimate.dtype)[:, None, None, None]
        mean = first / (1 - _BETA_1**number)
        spread = (second / (1 - _BETA_2**number)).sqrt()
        x = s.x + self.lr * mean / (spread + _TINY)
        near = (p.x + (x - p.x).clamp(-self.eps, self.eps)).clamp(0, 1)
        return s.replace(x=near.to(p.x.dtype), first=first, second=second)

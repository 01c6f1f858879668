"""The momentum iterative fast gradient sign method."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumState(State):
    """State with the accumulated gradient.

    Attributes:
        momentum: (B, C, H, W).
    """

    momentum: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MIFGSM(Attack):
    """Momentum iterative FGSM (Dong et al., arXiv:1710.06081, algorithm 1).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes the paper's eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the paper.
    """

    name: ClassVar[str] = "mifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf")

    eps: float = 8 / 255
    alpha: float | None = None
    steps: int = 10
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, alpha=self.alpha, steps=self.steps)
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"{self.name}: decay must be >= 0 and finite, got {self.decay}")

    @property
    def step_size(self) -> float:
        """Step size that will be used."""
        return self.eps / self.steps if self.alpha is None else self.alpha

    def init(self, p: Problem) -> MomentumState:
        """Start at the image, at rest."""
        return MomentumState(x=p.x, momentum=torch.zeros_like(p.x))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    def step(self, p: Problem, s: MomentumState, query: Query) -> MomentumState:
        """Add the gradient, scaled to L1 norm 1, to the momentum and step along its sign."""
        grad = query.grad(s.x, p.y)
        alpha = p.direction * self.step_size
        x, momentum = ops.momentum_step(s.x, grad, s.momentum, p.x, self.decay, alpha, self.eps)
        return s.replace(x=x, momentum=momentum)

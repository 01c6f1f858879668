"""What the momentum iterative methods share: gradients are added up and stepped along."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumState(State):
    """State with the accumulated gradient.

    Attributes:
        momentum: (B, C, H, W) sum of gradients, each scaled to L1 norm 1; at least fp32.
    """

    momentum: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingState(MomentumState):
    """State of an attack that draws in each step.

    Attributes:
        turn: (B,) int64 steps taken.
    """

    turn: Tensor


Moving = TypeVar("Moving", bound=MomentumState)


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumIterative(Attack):
    """Base of the momentum iterative methods (Dong et al., arXiv:1710.06081).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the papers; 0 steps along each gradient's sign.
    """

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
        return MomentumState(x=p.x, momentum=at_rest(p.x))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    @abstractmethod
    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Take one step."""

    def advance(self, p: Problem, s: Moving, grad: Tensor) -> Moving:
        """Add a gradient, scaled to L1 norm 1, to the momentum and step along its sign."""
        alpha = p.direction * self.step_size
        x, momentum = ops.momentum_step(s.x, grad, s.momentum, p.x, self.decay, alpha, self.eps)
        return s.replace(x=x, momentum=momentum)

    def lookahead(self, p: Problem, s: MomentumState) -> Tensor:
        """(B, C, H, W) where the momentum leads by itself; it may lie outside of ball and box.

        `x + alpha * mu * g` with g in units of mean magnitude 1, as the authors of NI-FGSM compute
        it: by the L1 norm of their formula the change of an image of n pixel values would be
        alpha / n.
        """
        reach = p.direction * self.step_size * self.decay * p.x[0].numel()
        return torch.add(s.x, s.momentum, alpha=reach).to(p.x.dtype)


def at_rest(x: Tensor) -> Tensor:
    """No momentum, for images like these; at least fp32."""
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))

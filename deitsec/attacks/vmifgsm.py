"""Momentum iterative FGSM with variance tuning."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deitsec.attacks.draws import uniform
from deitsec.attacks.momentum_iterative import DrawingState, MomentumIterative, at_rest
from deitsec.types import Problem, Query, Traits

_NEIGHBOUR = 2  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceState(DrawingState):
    """State with what the neighbours of the last iterate said.

    Attributes:
        variance: (B, C, H, W) their mean gradient, less that at the iterate; at least fp32.
    """

    variance: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class VMIFGSM(MomentumIterative):
    """Variance-tuned momentum iterative FGSM (Wang and He, arXiv:2103.15571, algorithm 1).

    The gradient is corrected by the gradient variance of the step before: the mean gradient of
    neighbours, drawn uniformly from a cube around the iterate, less the gradient there. Neighbours
    may lie outside of ball and box, and only guide.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes the paper's eps / steps (torchattacks: 2/255).
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the paper.
        neighbours: number of neighbours, N in the paper (torchattacks: 5).
        beta: half the side of the cube, in units of eps.
    """

    name: ClassVar[str] = "vmifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf", deterministic=False)

    neighbours: int = 20
    beta: float = 1.5

    def __post_init__(self) -> None:
        """Validate the configuration."""
        MomentumIterative.__post_init__(self)
        if self.neighbours < 1:
            raise ValueError(f"{self.name}: neighbours must be at least 1, got {self.neighbours}")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"{self.name}: beta must be > 0 and finite, got {self.beta}")

    def init(self, p: Problem) -> VarianceState:
        """Start at the image, at rest and without a variance."""
        return VarianceState(
            x=p.x,
            momentum=at_rest(p.x),
            turn=torch.zeros_like(p.sample_ids),
            variance=at_rest(p.x),
        )

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the tuned gradient, and ask the neighbours for the next."""
        grad = query.grad(s.x, p.y)
        total = torch.zeros_like(s.variance)
        for number in range(self.neighbours):
            drawn = uniform(p, p.x, _NEIGHBOUR, s.turn * self.neighbours + number)
            away = (2 * drawn - 1) * (self.beta * self.eps)
            near = (s.x + away).to(p.x.dtype)
            total = total + query.ask(near, p.y, offer=False).grad
        moved = self.advance(p, s, (grad + s.variance).to(p.x.dtype))
        return moved.replace(variance=total / self.neighbours - grad, turn=s.turn + 1)

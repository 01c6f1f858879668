"""Fooling images that look like a given one: the picture of one thing, the answer of another."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.fooling import check_descent, direction, moved
from deitsec.attacks.squared_error import SquaredError, half_squared_error, unit_gradient
from deitsec.types import Answer, Plan, Problem, Query, State, Traits

_SURE = 0.9  # softmax of the target from which on a row descends the objective


@dataclass(frozen=True, kw_only=True, slots=True)
class LookalikeState(State):
    """State with what was found so far.

    Attributes:
        there: (B,) bool, the row has been where the model is sure of its target.
        best: (B, C, H, W) the image of least objective that reaches the goal.
        least: (B,) its objective; inf where there is none yet.
    """

    there: Tensor
    best: Tensor
    least: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FoolingLookalike(Attack):
    """An image that looks like the row's own and is taken for the target.

    Minimises 1/2 ||y - softmax(x)||^2 + weight ||x - x_target||^2 where x_target is the row's clean
    image, what the picture is to look like, and y its target class.

    The image itself is a minimum of this wherever the model is sure of it, since the squared
    error has no slope there. So a row first follows the direction of the squared error (see
    `Fooling`) until the model is sure of the target, and descends the whole objective from there.
    The result is the image of least objective that reaches the goal.

    Attributes:
        weight: lambda of the distance, on images in [0, 1].
        steps: number of steps, of both kinds together.
        alpha: length of a step towards the target class, in root mean square over the image.
        rate: step size of the descent of the objective.
        gap: see `Fooling`.
    """

    name: ClassVar[str] = "fooling_lookalike"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="anywhere", untargeted=False)

    target: str | int | None = "next"
    weight: float = 0.5
    steps: int = 500
    alpha: float = 0.005
    rate: float = 0.05
    gap: float = 2.0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_descent(self.name, self.steps, self.alpha, self.gap)
        for what in ("weight", "rate"):
            value = getattr(self, what)
            if not 0 < value < float("inf"):
                raise ValueError(f"{self.name}: {what} must be > 0 and finite, got {value}")
        if self.weight * self.rate >= 1:
            raise ValueError(
                f"{self.name}: weight * rate must be below 1, or the distance grows with every "
                f"step; got {self.weight} * {self.rate}"
            )

    def init(self, p: Problem) -> LookalikeState:
        """Start at the image that the result is to look like."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        return LookalikeState(
            x=p.x,
            there=torch.zeros_like(p.y, dtype=torch.bool),
            best=p.x,
            least=torch.full_like(p.y, math.inf, dtype=wide),
        )

    def plan(self) -> Plan:
        """Return the steps, and the choice among what they saw."""
        return [(self.step, self.steps), (self.choose, 1)]

    def step(self, p: Problem, s: LookalikeState, query: Query) -> LookalikeState:
        """Step towards the class, or down the objective."""
        gap = torch.where(s.there, math.inf, self.gap)[:, None]
        # a first success is far from what it is to look like: only what is chosen is offered
        answer = query.objective(s.x, SquaredError(p.y, gap), offer=False)
        s = self._noted(p, s, answer)
        apart = s.x.to(s.least.dtype) - p.x
        size = unit_gradient(answer.logits, p.y)[1]
        slope = answer.grad * size.exp()[:, None, None, None] + 2 * self.weight * apart
        approach = self.alpha * direction(answer.grad)
        change = torch.where(s.there[:, None, None, None], self.rate * slope, approach)
        return s.replace(x=moved(s.x, -change))

    def choose(self, p: Problem, s: LookalikeState, query: Query) -> LookalikeState:
        """End at the best image that reached the goal, where there was one."""
        found = s.least.isfinite()[:, None, None, None]
        x = torch.where(found, s.best, s.x)
        # offered here: a row that a NaN has stopped is held at its last x
        query.logits(x)
        return s.replace(x=x)

    def _noted(self, p: Problem, s: LookalikeState, answer: Answer) -> LookalikeState:
        """Remember the iterate where it is the best so far, and whether the model is sure of it."""
        apart = (s.x.to(s.least.dtype) - p.x).flatten(1).square().sum(1)
        objective = half_squared_error(answer.logits, p.y).to(s.least.dtype) + self.weight * apart
        reached = p.goal.reached(answer.logits)
        better = reached & (objective < s.least)
        probability = answer.logits.softmax(1).gather(1, p.y[:, None])[:, 0]
        sure = reached & (probability >= _SURE)
        return s.replace(
            there=s.there | sure,
            best=torch.where(better[:, None, None, None], s.x, s.best),
            least=torch.where(better, objective, s.least),
        )

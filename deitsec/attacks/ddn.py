"""The attack that decouples direction and norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack, check_least, check_positive, check_share
from deitsec.attacks.directions import annealed, per_row, unit
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class DDNState(State):
    """State with the radius of each row.

    Attributes:
        radius: (B,) L2 norm that the perturbation is given; at least fp32.
        iteration: (B,) int64.
    """

    radius: Tensor
    iteration: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DDN(Attack):
    """Decoupled direction and norm (Rony et al., arXiv:1811.09600, algorithm 1).

    A step of length lr along the gradient of the cross-entropy gives the direction; the norm
    shrinks by gamma where the image is adversarial and grows by it where not.

    Attributes:
        eps: L2 radius within which a success counts, and then ends the row; None takes the nearest.
        steps: number of steps.
        gamma: share by which the norm changes in a step.
        init_norm: norm after the first step, before gamma.
        lr: length of the first step; falls to a hundredth by half a cosine.
        levels: grey levels that the perturbation is rounded to, as the paper does with 256; None
            does not, since on small images that costs a good part of the distance.
    """

    name: ClassVar[str] = "ddn"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum")

    eps: float | None = None
    steps: int = 100
    gamma: float = 0.05
    init_norm: float = 1.0
    lr: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_least(self.name, 1, steps=self.steps)
        check_positive(self.name, eps=self.eps, init_norm=self.init_norm, lr=self.lr)
        check_share(self.name, "gamma", self.gamma)
        if self.levels is not None:
            check_least(self.name, 2, levels=self.levels)

    def init(self, p: Problem) -> DDNState:
        """Start at the image."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        radius = torch.full_like(p.y, 1, dtype=wide) * self.init_norm
        return DDNState(x=p.x, radius=radius, iteration=torch.zeros_like(p.y))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    def step(self, p: Problem, s: DDNState, query: Query) -> DDNState:
        """Turn the perturbation along the gradient, and give it its new norm."""
        answer = query.ask(s.x, p.y)
        won = p.goal.reached(answer.logits)
        radius = torch.where(won, s.radius * (1 - self.gamma), s.radius * (1 + self.gamma))
        lr = annealed(s.iteration, self.steps, self.lr, self.lr / 100).to(radius.dtype)

        clean = p.x.to(radius.dtype)
        delta = s.x.to(radius.dtype) - clean
        delta = delta + per_row(p.direction * lr, delta) * unit(answer.grad)
        delta = unit(delta) * per_row(radius, delta)
        if self.levels is not None:
            delta = (delta * (self.levels - 1)).round() / (self.levels - 1)
        x = (clean + delta).clamp(0, 1).to(p.x.dtype)
        return s.replace(x=x, radius=radius, iteration=s.iteration + 1)

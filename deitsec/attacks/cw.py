"""Carlini and Wagner's attack of least L2 distance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_least, check_positive
from deitsec.types import Plan, Problem, Query, State, Traits

_UNBOUNDED = 1e10  # an upper bound that no search has set
_LEAST_DECREASE = 0.9999  # of the loss from one look to the next


@dataclass(frozen=True, kw_only=True, slots=True)
class CWState(State):
    """Where each row is in its searches.

    Attributes:
        w: (B, C, H, W) the variable whose tanh is the image; at least fp32, as all that follows.
        m: (B, C, H, W) Adam's first moment.
        v: (B, C, H, W) Adam's second moment.
        distance: (B,) squared distance of `x`.
        search: (B,) int64, searches that are over.
        iteration: (B,) int64, of the search that goes on.
        c: (B,) weight of the model's part of the loss.
        lower: (B,) the largest c that failed.
        upper: (B,) the smallest c that succeeded.
        fell: (B,) bool, whether this search has succeeded.
        previous: (B,) loss when it was last looked at.
    """

    w: Tensor
    m: Tensor
    v: Tensor
    distance: Tensor
    search: Tensor
    iteration: Tensor
    c: Tensor
    lower: Tensor
    upper: Tensor
    fell: Tensor
    previous: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CW(Attack):
    """The L2 attack of Carlini and Wagner (arXiv:1608.04644, section VI-A), as their code has it.

    Minimises `||x - x0||_2^2 + c * max(0, f(x) + kappa)` by Adam in a variable whose tanh is the
    image, f being the lead of the wrong logit over the right one, and searches for the least c that
    succeeds: from `initial_const` by tenfold steps, then by halving. Each search starts at the
    clean image with Adam at rest, and ends early where a tenth of its steps brought nothing. Rows
    keep their own time: one that ends a search early starts the next at once.

    Attributes:
        eps: L2 radius within which a success counts, and then ends the row; None takes the nearest.
        steps: of each search. The paper's code takes up to 10,000, and its stop at no progress
            makes that a third or less.
        search_steps: searches for c; from 10 up, the last takes the least c that succeeded again.
        initial_const: c of the first search.
        lr: of Adam.
        kappa: by how much the winning logit has to be ahead.
        abort_early: whether a search ends where its loss stops falling.
    """

    name: ClassVar[str] = "cw"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum")

    eps: float | None = None
    steps: int = 1000
    search_steps: int = 9
    initial_const: float = 1e-3
    lr: float = 1e-2
    kappa: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_least(self.name, 1, steps=self.steps, search_steps=self.search_steps)
        check_positive(self.name, eps=self.eps, initial_const=self.initial_const, lr=self.lr)
        check_least(self.name, 0, kappa=self.kappa)

    def init(self, p: Problem) -> CWState:
        """Start the first search at the clean image."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        w, m, v = torch.zeros((3, *p.x.shape), dtype=wide, device=p.x.device).unbind()
        nothing = torch.zeros_like(p.y, dtype=wide)
        count = torch.zeros_like(p.y)
        x, distance = ops.adam_tanh_step_(w, m, v, p.x, p.x, nothing, count, self.lr, 1.0)
        return CWState(
            x=x,
            done=torch.zeros_like(p.y, dtype=torch.bool),
            w=w,
            m=m,
            v=v,
            distance=distance,
            search=count,
            iteration=count.clone(),
            c=torch.full_like(nothing, self.initial_const),
            lower=nothing,
            upper=torch.full_like(nothing, _UNBOUNDED),
            fell=torch.zeros_like(p.y, dtype=torch.bool),
            previous=torch.full_like(nothing, torch.inf),
        )

    def plan(self) -> Plan:
        """Return the same step, as often as the searches can last."""
        return [(self.step, self.search_steps * self.steps)]

    def step(self, p: Problem, s: CWState, query: Query) -> CWState:
        """Take one iteration of each row's search, or start its next one."""
        answer = query.ask(s.x, p.y, "margin")
        gap = self.kappa - p.direction * answer.loss
        loss = s.distance + s.c * gap.clamp_min(0)
        look = s.iteration % max(1, self.steps // 10) == 0
        stuck = look & (loss > s.previous * _LEAST_DECREASE)
        if not self.abort_early:
            stuck = torch.zeros_like(look)
        over = stuck | (s.iteration == self.steps - 1)
        # as in the paper's code, the image that ends a search does not decide over its c
        fell = s.fell | (p.goal.reached(answer.logits) & ~stuck)
        s = self._next_const(s, over & (s.search < self.search_steps), fell)

        # a row that is done stays at the start, where nothing new comes of it
        ended = over | (s.search == self.search_steps)
        iteration = torch.where(ended, 0, s.iteration + 1)
        pulls = torch.where(gap > 0, -p.direction * s.c, 0)
        x, distance = ops.adam_tanh_step_(
            s.w, s.m, s.v, answer.grad, p.x, pulls, iteration, self.lr, 1.0
        )
        return s.replace(
            x=x,
            distance=distance,
            iteration=iteration,
            fell=fell & ~over,
            previous=torch.where(look, loss, s.previous).masked_fill(over, torch.inf),
        )

    def _next_const(self, s: CWState, over: Tensor, fell: Tensor) -> CWState:
        """The searches that are over bound c, and the next ones take another."""
        won, lost = over & fell, over & ~fell
        upper = torch.where(won, torch.minimum(s.upper, s.c), s.upper)
        lower = torch.where(lost, torch.maximum(s.lower, s.c), s.lower)
        following = torch.where(upper < _UNBOUNDED, (lower + upper) / 2, s.c * 10)
        search = s.search + over
        if self.search_steps >= 10:
            following = torch.where(search == self.search_steps - 1, upper, following)
        return s.replace(
            c=torch.where(over, following, s.c),
            lower=lower,
            upper=upper,
            search=search,
            done=search >= self.search_steps,
        )

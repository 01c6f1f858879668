"""Carlini and Wagner's attack of least L-infinity distance."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_least, check_positive
from deitsec.attacks.directions import per_row
from deitsec.types import Plan, Problem, Query, State, Traits

_LEAST_TAU = 1 / 256
_SOLVED = 1e-4  # of c: the loss at which nothing is left of either part


@dataclass(frozen=True, kw_only=True, slots=True)
class CWLinfState(State):
    """Where each row is; scalars of rows are at least fp32.

    Attributes:
        w: (B, C, H, W) the variable whose tanh is the image; at least fp32.
        m: (B, C, H, W) Adam's first moment.
        v: (B, C, H, W) Adam's second moment.
        start: (B, C, H, W) the last image that was within its bound, where the next descent starts.
        tau: (B,) bound on the change of a value.
        c: (B,) weight of the model's part of the loss.
        iteration: (B,) int64, at this c.
        adam_step: (B,) int64, at this tau.
    """

    w: Tensor
    m: Tensor
    v: Tensor
    start: Tensor
    tau: Tensor
    c: Tensor
    iteration: Tensor
    adam_step: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CWLinf(Attack):
    """The L-infinity attack of Carlini and Wagner (arXiv:1608.04644, section VI-C).

    Minimises `sum(max(0, |x - x0| - tau)) + c * max(0, f(x) + kappa)` by Adam in a variable whose
    tanh is the image. Where both parts come to nothing, tau becomes 0.9 of the change and the
    descent goes on from there; where they do not within `steps`, c doubles. A row ends when c
    reaches `largest_const` or tau a grey level. Rows keep their own time. The image that is judged
    is the one that the loss was taken at, where the paper's code asks once more after the step.

    Attributes:
        eps: radius within which a success counts, and then ends the row; None takes the nearest.
        steps: at each c; the paper's code takes up to 1,000.
        initial_const: the first c.
        largest_const: where a row gives up.
        decrease: factor of tau after a success.
        lr: of Adam.
        kappa: by how much the winning logit has to be ahead.
    """

    name: ClassVar[str] = "cw_linf"
    traits: ClassVar[Traits] = Traits(norm="linf", goal="minimum")

    eps: float | None = None
    steps: int = 100
    initial_const: float = 1e-5
    largest_const: float = 20.0
    decrease: float = 0.9
    lr: float = 5e-3
    kappa: float = 0.0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_least(self.name, 1, steps=self.steps)
        check_positive(self.name, eps=self.eps, initial_const=self.initial_const, lr=self.lr)
        check_least(self.name, 0, kappa=self.kappa)
        check_least(self.name, self.initial_const, largest_const=self.largest_const)
        if not 0 < self.decrease < 1:
            raise ValueError(f"{self.name}: decrease must be in (0, 1), got {self.decrease}")

    def init(self, p: Problem) -> CWLinfState:
        """Start at the clean image, with a bound that allows everything."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        w, m, v = torch.zeros((3, *p.x.shape), dtype=wide, device=p.x.device).unbind()
        one = torch.ones_like(p.y, dtype=wide)
        count = torch.zeros_like(p.y)
        x, _ = ops.adam_tanh_step_(w, m, v, p.x, p.x, one, count, self.lr, 0.0)
        return CWLinfState(
            x=x,
            done=torch.zeros_like(p.y, dtype=torch.bool),
            w=w,
            m=m,
            v=v,
            start=p.x,
            tau=one,
            c=one * self.initial_const,
            iteration=count,
            adam_step=count.clone(),
        )

    def plan(self) -> Plan:
        """Return the same step, as often as every c and every tau can take."""
        doublings = max(1, math.ceil(math.log2(self.largest_const / self.initial_const)))
        bounds = math.ceil(math.log(_LEAST_TAU) / math.log(self.decrease))
        return [(self.step, (doublings + bounds) * self.steps)]

    def step(self, p: Problem, s: CWLinfState, query: Query) -> CWLinfState:
        """Take one iteration of each row's descent, or start its next one."""
        answer = query.ask(s.x, p.y, "margin")
        gap = self.kappa - p.direction * answer.loss
        delta = s.x.to(s.w.dtype) - p.x.to(s.w.dtype)
        excess = (delta.abs() - per_row(s.tau, delta)).clamp_min(0)
        loss = s.c * gap.clamp_min(0) + excess.flatten(1).sum(1)
        solved = (loss < _SOLVED * s.c) & p.goal.reached(answer.logits)
        expired = ~solved & (s.iteration == self.steps - 1)

        largest = delta.abs().flatten(1).amax(1)
        tau = torch.where(solved, torch.minimum(s.tau, largest) * self.decrease, s.tau)
        c = torch.where(expired & (s.c < self.largest_const), s.c * 2, s.c)
        done = (tau <= _LEAST_TAU) | (c >= self.largest_const)
        # a row that is done stays at the clean image, where nothing new comes of it
        start = torch.where(per_row(solved, s.x), s.x, s.start)
        start = torch.where(per_row(done, s.x), p.x, start)

        pulls = torch.where(gap > 0, -p.direction * s.c, 0)
        grad = per_row(pulls, delta) * answer.grad.to(delta.dtype)
        grad = grad + torch.where(excess > 0, delta.sign(), 0)
        adam_step = torch.where(solved | done, 0, s.adam_step + 1)
        one = torch.ones_like(s.tau)
        x, _ = ops.adam_tanh_step_(
            s.w, s.m, s.v, grad.to(p.x.dtype), start, one, adam_step, self.lr, 0.0
        )
        return s.replace(
            x=x,
            done=done,
            start=start,
            tau=tau,
            c=c,
            iteration=torch.where(solved | expired, 0, s.iteration + 1),
            adam_step=adam_step,
        )

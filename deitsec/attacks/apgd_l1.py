"""APGD in the L1 ball."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.auto_pgd import AutoPGD
from deitsec.attacks.draws import normal
from deitsec.types import Plan, Problem, Query, State, Traits

_START = 4  # stream of the draws
_WIDER = ((3, 0.3), (2, 0.3), (1, 0.4))  # radii in units of eps, and their shares of the steps
_DENSITY = 0.2  # share of the values that move in the first steps from a dense start
_SPARSER = 1.5  # the values that move are those of the best perturbation, divided by this
_FEWER = 0.95  # a perturbation that lost more than the rest of its values is followed
_SLOWER, _SLOWEST = 1.5, 10.0  # what a step is divided by at a checkpoint, and all in all
_INTERVAL = 0.04  # of the steps, from checkpoint to checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsityState(State):
    """Where APGD in L1 is, and what it judges its sparsity by.

    Attributes:
        at: (B, C, H, W) the iterate, in a ball that may be wider than eps; `x` is in that of eps.
        x_best: (B, C, H, W) the iterate of the best height.
        grad_best: (B, C, H, W) the gradient there.
        best: (B,) the best height.
        step: (B,) L1 lengths of the steps, at least fp32.
        density: (B,) share of the values that move, at least fp32.
        moved: (B,) values that differ from the clean image at the best iterate of the checkpoint
            before.
        age: (B,) int64, steps taken in this ball after the first.
    """

    at: Tensor
    x_best: Tensor
    grad_best: Tensor
    best: Tensor
    step: Tensor
    density: Tensor
    moved: Tensor
    age: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class APGDL1(AutoPGD):
    """Auto-PGD in L1 (Croce and Hein, "Mind the box", arXiv:2103.01208, algorithm 1).

    A step moves the values of largest gradient, as many as the best perturbation has, divided by
    1.5, and is projected on the intersection of ball and box. At a checkpoint (each 4% of the
    steps) a row whose best perturbation has become sparser by 5% goes back to it at full step
    length, and any other takes steps 1.5 times shorter, down to eps / 10.

    Attributes:
        eps: L1 radius on images in [0, 1].
        wider: spend the first 30% of the steps in a ball of 3 eps and the next in one of 2 eps,
            each from the best point of the one before, projected ("larger reps").
    """

    name: ClassVar[str] = "apgd_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", deterministic=False)

    eps: float = 12.0
    wider: bool = True

    def init(self, p: Problem) -> SparsityState:
        """Start at normal noise, projected on the first ball within the box."""
        self.check_aim(p)
        noise = p.x + normal(p, p.x, _START).to(p.x.dtype)
        at = ops.l1_projection(noise, p.x, self.balls[0].radius)
        row = torch.zeros(len(at), dtype=torch.promote_types(at.dtype, torch.float32)).to(at.device)
        return SparsityState(
            x=ops.l1_projection(at, p.x, self.eps),
            at=at,
            x_best=at,
            grad_best=torch.zeros_like(at),
            best=row - torch.inf,
            step=row,
            density=row,
            moved=row,
            age=torch.zeros_like(p.y),
        )

    def plan(self) -> Plan:
        """Return the steps in each ball."""
        program = [[(ball.enter, 1), (ball.climb, ball.steps - 1)] for ball in self.balls]
        return [(step, times) for steps in program for step, times in steps if times]

    @property
    def balls(self) -> tuple["Ball", ...]:
        """The balls that are climbed in, one after the other."""
        if not self.wider or self.steps < len(_WIDER):
            return (Ball(attack=self, radius=self.eps, steps=self.steps, follows=False),)
        steps = [math.ceil(share * self.steps) for _, share in _WIDER]
        steps[-1] = self.steps - sum(steps[:-1])
        return tuple(
            Ball(attack=self, radius=times * self.eps, steps=number, follows=place > 0)
            for place, ((times, _), number) in enumerate(zip(_WIDER, steps, strict=True))
            if number > 0
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    """APGD in L1 within one ball.

    Attributes:
        attack: whose options they are.
        radius: of the ball.
        steps: how many are taken in it.
        follows: whether a wider ball comes before it.
    """

    attack: APGDL1
    radius: float
    steps: int
    follows: bool

    def enter(self, p: Problem, s: SparsityState, query: Query) -> SparsityState:
        """Take the first step, from the best point of the ball before, projected."""
        if self.follows:
            s, _ = self._look(p, s, query, offer=False)
            s = s.replace(at=ops.l1_projection(s.x_best, p.x, self.radius))
        values = p.x[0].numel()
        moved = _moved(s.at, p.x).to(s.best.dtype)
        density = moved / (values * _SPARSER)
        if not self.attack.wider:
            moved, density = (torch.full_like(moved, v) for v in (values, _DENSITY))
        s = s.replace(
            age=torch.zeros_like(s.age),
            best=torch.full_like(s.best, -torch.inf),
            step=torch.full_like(s.step, self.radius),
            density=density,
            moved=moved,
        )
        s, grad = self._look(p, s, query, offer=self.counts)
        return self._advance(p, s, grad)

    def climb(self, p: Problem, s: SparsityState, query: Query) -> SparsityState:
        """Take a step; at a checkpoint its length and density are set anew."""
        s, grad = self._look(p, s, query, offer=self.counts)
        age = s.age + 1
        checked = age % max(1, int(_INTERVAL * self.steps)) == 0
        moved = _moved(s.x_best, p.x).to(s.best.dtype)
        sparser = checked & (moved / s.moved < _FEWER)
        step = torch.where(sparser, self.radius, s.step / _SLOWER)
        density = moved / (p.x[0].numel() * _SPARSER)
        s = s.replace(
            age=age,
            step=torch.where(checked, step.clamp(self.radius / _SLOWEST, self.radius), s.step),
            density=torch.where(checked, density, s.density),
            moved=torch.where(checked, moved, s.moved),
            at=torch.where(_by_row(sparser, s.at), s.x_best, s.at),
        )
        return self._advance(p, s, torch.where(_by_row(sparser, grad), s.grad_best, grad))

    @property
    def counts(self) -> bool:
        """Whether what is found in this ball is an adversarial image."""
        return self.radius <= self.attack.eps

    def _look(
        self, p: Problem, s: SparsityState, query: Query, *, offer: bool
    ) -> tuple[SparsityState, Tensor]:
        """The state with its iterate compared with the best one, and the gradient there."""
        grad, height = self.attack.ask(p, s.at, query, offer=offer)
        better = height > s.best
        rows = _by_row(better, grad)
        s = s.replace(
            best=torch.where(better, height, s.best),
            x_best=torch.where(rows, s.at, s.x_best),
            grad_best=torch.where(rows, grad, s.grad_best),
        )
        return s, grad

    def _advance(self, p: Problem, s: SparsityState, grad: Tensor) -> SparsityState:
        """Move the values of largest gradient, and project on the ball within the box."""
        slope, values = grad.flatten(1), p.x[0].numel()
        size = slope.abs()
        place = ((1 - s.density) * values).clamp(0, values - 1).long()
        least = size.sort(1).values.gather(1, place[:, None])
        moves = (slope.sign() * (size >= least)).to(s.step.dtype)
        share = self.attack.direction(p) * s.step / moves.abs().sum(1).clamp_min(1)
        z = (s.at.flatten(1) + moves * share[:, None]).to(p.x.dtype).view_as(p.x)
        at = ops.l1_projection(z, p.x, self.radius)
        return s.replace(at=at, x=at if self.counts else s.x)


def _moved(x: Tensor, clean: Tensor) -> Tensor:
    """(B,) how many values differ."""
    return (x != clean).flatten(1).sum(1)


def _by_row(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *(1,) * (like.ndim - 1))

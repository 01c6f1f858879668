"""What the attacks that estimate a gradient from scores have in common."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateState(State):
    """State with the estimate of a gradient.

    Attributes:
        estimate: (B, C, H, W) sum over the directions so far, at least fp32.
        clock: (B,) int64 directions drawn so far, in all steps.
    """

    estimate: Tensor
    clock: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreEstimate(Attack):
    """Base: ascend a gradient that is estimated from scores on both sides of the iterate.

    A step asks about `samples` pairs x + delta v and x - delta v, clipped to the box, then moves,
    and asks about where it stands: 2 samples + 1 queries. The probes only guide: they may lie
    outside of the ball.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        steps: number of steps.
        samples: directions of each estimate.
        delta: how far the probes are from the iterate.
    """

    eps: float = 8 / 255
    steps: int = 100
    samples: int = 64
    delta: float = 0.01

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, steps=self.steps)
        if self.samples < 1:
            raise ValueError(f"{self.name}: samples must be at least 1, got {self.samples}")
        if not 0 < self.delta <= 1:
            raise ValueError(f"{self.name}: delta must be in (0, 1], got {self.delta}")

    @abstractmethod
    def direction(self, p: Problem, s: EstimateState) -> Tensor:
        """(B, C, H, W) a random direction v, at least fp32."""

    @abstractmethod
    def objective(self, p: Problem, logits: Tensor) -> Tensor:
        """(B,) what is climbed, whatever the attack aims at."""

    @abstractmethod
    def slope(self, change: Tensor, above: Tensor, below: Tensor, v: Tensor) -> Tensor:
        """The estimate by one pair: `change` (B, 1, 1, 1) of the objective from below to above."""

    @abstractmethod
    def move(self, p: Problem, s: EstimateState, estimate: Tensor) -> EstimateState:
        """Go from `s.x` along an estimate of the gradient, within ball and box."""

    def init(self, p: Problem) -> EstimateState:
        """Start at the image."""
        estimate = torch.zeros_like(p.x, dtype=torch.promote_types(p.x.dtype, torch.float32))
        return EstimateState(x=p.x, estimate=estimate, clock=torch.zeros_like(p.sample_ids))

    def plan(self) -> Plan:
        """Return the pairs of an estimate and the move along it, repeated."""
        return [(self.probe, self.samples), (self.step, 1)] * self.steps

    def probe(self, p: Problem, s: EstimateState, query: Query) -> EstimateState:
        """Ask on both sides along one direction."""
        v = self.direction(p, s)
        above = (s.x + self.delta * v).clamp(0, 1).to(s.x.dtype)
        below = (s.x - self.delta * v).clamp(0, 1).to(s.x.dtype)
        high = self.objective(p, query.logits(above, offer=False))
        low = self.objective(p, query.logits(below, offer=False))
        change = (high - low).to(v.dtype)[:, None, None, None]
        slope = self.slope(change, above.to(v.dtype), below.to(v.dtype), v)
        return s.replace(estimate=s.estimate + slope, clock=s.clock + 1)

    def step(self, p: Problem, s: EstimateState, query: Query) -> EstimateState:
        """Move, and ask about where that leads."""
        moved = self.move(p, s, s.estimate / self.samples)
        query.logits(moved.x)
        return moved.replace(estimate=torch.zeros_like(moved.estimate))


def aimed(p: Problem, loss: Tensor) -> Tensor:
    """A loss at `p.y`, so that climbing it is what the attack wants."""
    return p.direction * loss


def margin(p: Problem, logits: Tensor) -> Tensor:
    """(B,) largest other logit less that of `p.y`, climbed or descended as the attack aims."""
    return aimed(p, ops.margin_loss(logits, p.y)[0])

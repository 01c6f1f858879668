"""The closed form of a linear model: the nearest point of the box beyond the nearest border."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.types import Plan, Problem, Query, State, Traits

# how far beyond the border to go, of the way there, until rounding lets it be crossed
_LEAST_POWER, _TRIES = -7, 5  # 1e-7 to 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearState(State):
    """State with the border that is nearest.

    Attributes:
        gap: (B,) fp64, how far the label's logit is ahead there, on the image; at least 0.
        slope: (B, C, H, W) gradient of the other logit less the label's; at least fp32.
        turn: (B,) int64 points tried.
    """

    gap: Tensor
    slope: Tensor
    turn: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearBase(Attack):
    """Nearest adversarial image of a model whose logits are affine in the image, in closed form.

    For each other class j the least change that brings logit j up to the label's is a projection on
    a half-space cut with the box; the nearest of them is the optimum. On any other model this is a
    single linearised step, and a success only where the model says so. It takes one forward pass,
    a gradient for each class but one, and up to 5 forward passes for the point itself, each a
    little farther beyond the border than the last: rounding may leave one short of it.

    Attributes:
        eps: None takes any distance; else a success counts within this radius only.
    """

    eps: float | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        if self.eps is not None and not 0 < self.eps < float("inf"):
            raise ValueError(f"{self.name}: eps must be > 0 and finite, or none, got {self.eps}")

    @abstractmethod
    def nearest(self, weight: Tensor, room: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Least change of some pixels by whose magnitudes a gap is closed.

        Args:
            weight: (B, J, N) >= 0, what a unit of each pixel closes of the gap.
            room: (B, J, N) >= 0, how far each may go.
            gap: (B, J) to close; more than can be closed takes all the room.

        Returns:
            (B, J, N) magnitudes and (B, J) their norm.
        """

    def init(self, p: Problem) -> LinearState:
        """Stand on the image, knowing no border."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        return LinearState(
            x=p.x,
            done=torch.zeros_like(p.sample_ids, dtype=torch.bool),
            gap=torch.zeros_like(p.sample_ids, dtype=torch.float64),
            slope=torch.zeros_like(p.x, dtype=wide),
            turn=torch.zeros_like(p.sample_ids),
        )

    def plan(self) -> Plan:
        """Return the choice of the border, and the step once for each way beyond it."""
        return [(self.aim, 1), (self.step, _TRIES)]

    def aim(self, p: Problem, s: LinearState, query: Query) -> LinearState:
        """Find the nearest border that the box lets be reached, the first if there is none."""
        logits, slopes = query.jacobian(p.x, lambda z: _others(z, p.labels))
        differences = _others(logits, p.labels).double() @ logits.double()[:, :, None]
        gaps = (-differences[:, :, 0]).clamp(min=0)
        weight = slopes.flatten(2).double()
        room, beyond = _room(p.x, weight), gaps * (1 + 10.0**_LEAST_POWER)
        _, distance = self.nearest(weight.abs(), room, beyond)
        reachable = (weight.abs() * room).sum(2) >= beyond
        best = torch.where(reachable, distance, torch.inf).argmin(1, keepdim=True)
        along = best[:, :, None].expand(-1, 1, weight.shape[2])
        slope = slopes.flatten(2).gather(1, along).reshape(p.x.shape)
        return s.replace(gap=gaps.gather(1, best)[:, 0], slope=slope.to(s.slope.dtype))

    def step(self, p: Problem, s: LinearState, query: Query) -> LinearState:
        """Go to the border and a little beyond, and ask whether that was enough."""
        weight = s.slope.flatten(1)[:, None].double()  # exact to the last digits of the image
        gap = s.gap * (1 + 10.0 ** (s.turn.double() + _LEAST_POWER))
        change, _ = self.nearest(weight.abs(), _room(p.x, weight), gap[:, None])
        x = (p.x.double() + (change * weight.sign()).reshape(p.x.shape)).clamp(0, 1)
        x = x.to(p.x.dtype)
        done = p.goal.reached(query.logits(x))
        return s.replace(x=x, done=done, turn=(s.turn + 1).clamp(max=_TRIES - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearLinf(LinearBase):
    """Closed form in L-infinity: all pixels move alike, as far as the box lets them."""

    name: ClassVar[str] = "linear"
    traits: ClassVar[Traits] = Traits(norm="linf", goal="minimum", targeted=False, iterative=False)

    def nearest(self, weight: Tensor, room: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """min(t, room) with the least t."""
        t = _least_reach(weight, room, gap)
        return torch.minimum(t[:, :, None], room), t


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearL2(LinearBase):
    """Closed form in L2: pixels move along the gradient, as far as the box lets them."""

    name: ClassVar[str] = "linear_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum", targeted=False, iterative=False)

    def nearest(self, weight: Tensor, room: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """min(t weight, room) with the least t."""
        ends = torch.where(weight > 0, room / weight, 0.0)
        t = _least_reach(weight.square(), ends, gap)
        change = torch.minimum(t[:, :, None] * weight, room)
        return change, torch.linalg.vector_norm(change, dim=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearL1(LinearBase):
    """Closed form in L1: one pixel after the other, the steepest first, to the end of the box."""

    name: ClassVar[str] = "linear_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", goal="minimum", targeted=False, iterative=False)

    def nearest(self, weight: Tensor, room: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """All the room of the steepest pixels, and a part of that of the last."""
        order = weight.sort(dim=2, descending=True, stable=True).indices
        steep, space = weight.gather(2, order), room.gather(2, order)
        closed = steep * space
        left = (gap[:, :, None] - (closed.cumsum(2) - closed)).clamp(min=0)
        part = torch.where(steep > 0, left / steep, 0.0)
        change = torch.zeros_like(room).scatter(2, order, torch.minimum(part, space))
        return change, change.sum(2)


def _room(x: Tensor, weight: Tensor) -> Tensor:
    """(B, J, N) fp64 how far each pixel may go in the direction of its weight (B, J, N)."""
    clean = x.flatten(1)[:, None].double()
    return torch.where(weight > 0, 1 - clean, clean)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, K - 1, K) coefficients of each other logit less the label's."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    other = (labels[:, None] + classes[1:]) % logits.shape[1]
    raised = (classes == other[:, :, None]).to(logits.dtype)
    return raised - (classes == labels[:, None])[:, None].to(logits.dtype)


def _least_reach(rate: Tensor, ends: Tensor, gap: Tensor) -> Tensor:
    """(B, J) least t with sum of rate * min(t, ends) = gap; the last end where there is none."""
    ends, order = ends.sort(2)
    rate = rate.gather(2, order)
    # when t is at an end: what has stopped there or before, and what moves there
    stopped = (rate * ends).cumsum(2)
    moving = rate.flip(2).cumsum(2).flip(2)
    closed = stopped + (moving - rate) * ends
    index = (closed < gap[:, :, None]).sum(2, keepdim=True).clamp(max=ends.shape[2] - 1)
    before = torch.where(index > 0, stopped.gather(2, (index - 1).clamp(min=0)), 0.0)
    speed = moving.gather(2, index)
    t = (gap[:, :, None] - before) / speed
    return torch.where(speed > 0, t, 0.0).clamp(max=ends[:, :, -1:])[:, :, 0]

"""Fooling images by gradient: noise that a model is sure of."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.draws import normal, uniform
from deitsec.attacks.momentum_iterative import at_rest
from deitsec.attacks.squared_error import SquaredError
from deitsec.types import Plan, Problem, Query, State, Traits

_START = 2  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class FoolingState(State):
    """State with the velocity of the descent.

    Attributes:
        velocity: (B, C, H, W), at least fp32.
    """

    velocity: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Fooling(Attack):
    """An image of nothing that is taken for a class: from noise, by gradient.

    Each row descends 1/2 ||y - softmax||^2 at its target over all images of the box (Nguyen et al.,
    arXiv:1412.1897, section 3.3, with the squared error of the MNIST studies). The clean image is
    not looked at: a row is one fooling image to craft.

    To the letter the descent stops where the model is sure of other classes: the slope of the
    formula is the goal's probability there. So only the direction of the gradient is used, and
    rows whose goal is far behind take it at a higher temperature, see `gap`.

    Attributes:
        confidence: softmax of the target that counts as fooled.
        steps: number of steps.
        alpha: length of a step, in root mean square over the values of the image.
        momentum: share of the last move that goes into the next.
        gap: the softmax is taken at the temperature, at least 1, at which the logit of the target
            is at most this much behind the first; inf is the formula to the letter.
        start: `normal` noise around mid-grey, of deviation 0.3, cut to [0, 1], or `uniform`.
        restarts: how often a row is tried, each time from other noise.
    """

    name: ClassVar[str] = "fooling"
    traits: ClassVar[Traits] = Traits(
        norm="l2", goal="anywhere", untargeted=False, deterministic=False
    )

    target: str | int | None = "next"
    confidence: float = 0.99
    steps: int = 500
    alpha: float = 0.005
    momentum: float = 0.9
    gap: float = 2.0
    start: str = "normal"
    restarts: int = 1

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_descent(self.name, self.steps, self.alpha, self.gap)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"{self.name}: momentum must be in [0, 1), got {self.momentum}")
        if self.start not in STARTS:
            raise ValueError(
                f"{self.name}: start must be one of normal, uniform, got {self.start!r}"
            )
        if self.restarts < 1:
            raise ValueError(f"{self.name}: restarts must be at least 1, got {self.restarts}")

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    def init(self, p: Problem) -> FoolingState:
        """Start at noise, at rest."""
        return FoolingState(x=noise(p, self.start), velocity=at_rest(p.x))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    def step(self, p: Problem, s: FoolingState, query: Query) -> FoolingState:
        """Step along the velocity, which takes up the direction of the gradient."""
        grad = query.objective(s.x, SquaredError(p.y, self.gap)).grad
        velocity = self.momentum * s.velocity + direction(grad)
        return s.replace(x=moved(s.x, -self.alpha * velocity), velocity=velocity)


STARTS = ("normal", "uniform")


def noise(p: Problem, start: str) -> Tensor:
    """(B, C, H, W) noise of each row, `normal` (mean 0.5, deviation 0.3, cut to [0, 1]) or not."""
    if start == "uniform":
        return uniform(p, p.x, _START).to(p.x.dtype)
    return (0.5 + 0.3 * normal(p, p.x, _START)).clamp(0, 1).to(p.x.dtype)


def direction(grad: Tensor) -> Tensor:
    """The gradient of each row brought to a root mean square of 1; 0 where it is 0.

    In at least fp32.
    """
    wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
    rows = wide.flatten(1)
    largest = rows.abs().amax(1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)  # the squares of small ones vanish
    size = rows.square().mean(1, keepdim=True).sqrt()
    return (rows / torch.where(size > 0, size, 1.0)).reshape(grad.shape)


def moved(x: Tensor, change: Tensor) -> Tensor:
    """`x` moved within the box, in its own dtype."""
    return (x + change).clamp(0, 1).to(x.dtype)


def check_descent(name: str, steps: int, alpha: float, gap: float) -> None:
    """Raise a ValueError for a descent that goes nowhere."""
    if steps < 1:
        raise ValueError(f"{name}: steps must be at least 1, got {steps}")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"{name}: alpha must be > 0 and finite, got {alpha}")
    if not gap > 0:
        raise ValueError(f"{name}: gap must be > 0, got {gap}")

"""The Jacobian-based saliency map attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_share
from deitsec.types import Plan, Problem, Query, State, Traits

_NEAR = 0.01  # how near the end of the box a feature is left out by skip_saturated


@dataclass(frozen=True, kw_only=True, slots=True)
class SaliencyState(State):
    """State with what may still be changed.

    Attributes:
        free: (B, n) bool, features in the search domain.
        pairs: (B,) int64, pairs changed so far.
    """

    free: Tensor
    pairs: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class JSMA(Attack):
    """Changes pairs of features to their end (Papernot et al., arXiv:1511.07528, algorithms 2, 3).

    Each step changes the two features that raise the target's logit most while they lower the sum
    of the others, until the target wins, no pair is left or gamma is reached. That takes two
    gradients, of the target and of the others, and not a Jacobian. A feature is a value of a
    channel; it leaves the search when a change brings it to the end of [0, 1].

    cleverhans and torchattacks leave out features that stand at the end already
    (`skip_saturated`), which the paper may pick in vain; torchattacks rounds the number of pairs
    up (`round_up`).

    Attributes:
        theta: what is added to a feature that is picked, in [-1, 1] and not 0.
        gamma: share of the features that may change; two change in each of floor(n gamma / 2)
            steps.
        round_up: whether that number is rounded up.
        skip_saturated: whether features within 0.01 of the end are left out from the start.
    """

    name: ClassVar[str] = "jsma"
    traits: ClassVar[Traits] = Traits(norm="l0", untargeted=False)

    theta: float = 1.0
    gamma: float = 0.145
    round_up: bool = False
    skip_saturated: bool = False

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        if not 0 < abs(self.theta) <= 1:
            raise ValueError(f"{self.name}: theta must be in [-1, 1] and not 0, got {self.theta}")
        check_share(self.name, "gamma", self.gamma)

    @property
    def limit(self) -> float:
        """Share of the features that may change."""
        return self.gamma

    @property
    def spares(self) -> bool:
        """An image that is taken for the target already needs no change."""
        return True

    def most_pairs(self, features: int) -> int:
        """How many pairs may change, of so many features."""
        pairs = features * self.gamma / 2
        return math.ceil(pairs) if self.round_up else math.floor(pairs)

    def init(self, p: Problem) -> SaliencyState:
        """Start at the image, with every feature in the search."""
        free = torch.ones_like(p.x.flatten(1), dtype=torch.bool)
        if self.skip_saturated:
            x = p.x.flatten(1)
            free = x < 1 - _NEAR if self.theta > 0 else x > _NEAR
        done = torch.zeros_like(p.sample_ids, dtype=torch.bool)
        return SaliencyState(x=p.x, done=done, free=free, pairs=torch.zeros_like(p.sample_ids))

    def plan(self) -> Plan:
        """Return the step alone: how often it runs hangs on the images, see `plan_for`."""
        return [(self.step, 1)]

    def plan_for(self, features: int) -> Plan:
        """Return the step, as often as pairs may change."""
        return [(self.step, max(1, self.most_pairs(features)))]

    def step(self, p: Problem, s: SaliencyState, query: Query) -> SaliencyState:
        """Change the best pair of the rows that go on."""
        assert s.done is not None
        logits, slopes = query.jacobian(s.x, lambda logits: _target_and_others(logits, p.y))
        alpha, beta = slopes.flatten(2).unbind(1)
        up = self.theta > 0
        i, j, found = ops.saliency_pair(
            (alpha if up else -alpha).contiguous(), (beta if up else -beta).contiguous(), s.free
        )
        done = s.done | ~found | p.goal.reached(logits)
        done = done | (s.pairs >= self.most_pairs(s.free.shape[1]))
        at = torch.stack([i, j], 1).clamp_min(0)
        x = s.x.flatten(1)
        old = x.gather(1, at)
        new = torch.where(done[:, None], old, (old + self.theta).clamp(0, 1))
        spent = (new >= 1 if up else new <= 0) & ~done[:, None]
        return s.replace(
            x=x.scatter(1, at, new).reshape(s.x.shape),
            done=done,
            free=s.free.scatter(1, at, s.free.gather(1, at) & ~spent),
            pairs=s.pairs + (~done).long(),
        )


def _target_and_others(logits: Tensor, y: Tensor) -> Tensor:
    """(B, 2, K) the target's logit, and the sum of the others."""
    target = torch.zeros_like(logits).scatter(1, y[:, None], 1.0)
    return torch.stack([target, 1 - target], 1)

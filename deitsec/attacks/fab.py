"""The fast adaptive boundary attack, in L-infinity, L2 and L1."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from deitsec import ops
from deitsec.attacks.attack import Attack, check_share
from deitsec.attacks.draws import normal, uniform
from deitsec.types import NORMS, Norm, Parts, Plan, Problem, Query, State, Traits

_DIRECTION = 2  # stream of the random starts
_ORDER: dict[Norm, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
_DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
_TINY = 1e-12  # the authors': a boundary without a gradient is far away
# the final search aims this much beyond the boundary: on it, rounding would tell which side it is
_BEYOND = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundaryState(State):
    """State with the nearest success so far.

    Attributes:
        found: (B,) bool, whether there is one.
        nearest: (B, C, H, W) that image; the clean one until then.
        score: (B,) minus its distance; -inf until then.
        starts: (B,) int64 random starts so far.
    """

    found: Tensor
    nearest: Tensor
    score: Tensor
    starts: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FAB(Attack):
    """Fast adaptive boundary attack, L-infinity (Croce and Hein, arXiv:1907.02044).

    Each step takes the decision boundary that is nearest when linearised, goes to the plane and a
    little beyond, drawn towards the clean image, and goes back towards that where it succeeded.
    Untargeted, a step takes a gradient for each of the K classes but one; with `num_targets=9` it
    is FAB-T, whose tries look at the boundary between the label and one class only, for one
    gradient a step. Aimed at a class, the boundary is that with the strongest of the others.

    Memory: untargeted, a step holds the gradients of a row all at once, 2 (K - 1) images of the
    row's size while they are put together. At K = 1000 that is 1.2 GB for one row of
    3 x 224 x 224 in fp32, whatever the model: FAB-T is the one for many classes.

    Attributes:
        eps: distance within which a success counts, where only that is asked; None minimises.
        steps: number of steps from each start.
        alpha_max: the most that a step is drawn towards the clean image.
        eta: overshoot of the projections.
        beta: what is left of the perturbation after a success.
        restarts: how many starts, one after the other: the clean image, then random points.
        reach: random starts lie at half of this distance (of `eps`, where that is given), or of
            that of the nearest success.
        search: steps of the search between the clean image and the nearest success, at the end.
    """

    name: ClassVar[str] = "fab"
    traits: ClassVar[Traits] = Traits(norm="linf", goal="minimum")

    eps: float | None = None
    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    restarts: int = 1
    reach: float = 0.3
    search: int = 3

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        for what, value in (("eps", self.eps), ("reach", self.reach)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{self.name}: {what} must be > 0 and finite, got {value}")
        for what in ("alpha_max", "beta"):
            check_share(self.name, what, getattr(self, what))
        if not 1 <= self.eta < math.inf:
            raise ValueError(f"{self.name}: eta must be at least 1 and finite, got {self.eta}")
        for what, least in (("steps", 1), ("restarts", 1), ("search", 0)):
            if getattr(self, what) < least:
                raise ValueError(
                    f"{self.name}: {what} must be at least {least}, got {getattr(self, what)}"
                )

    def init(self, p: Problem) -> BoundaryState:
        """Start at the image, with nothing found."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        nothing = torch.full(p.x.shape[:1], -torch.inf, dtype=wide, device=p.x.device)
        return BoundaryState(
            x=p.x,
            found=nothing > 0,
            nearest=p.x,
            score=nothing,
            starts=torch.zeros_like(p.sample_ids),
        )

    def plan(self) -> Plan:
        """Return the steps from the image and from each random start, and the final search."""
        from_image: Plan = [(self.step, self.steps)]
        from_noise: Plan = [(self.restart, 1), (self.step, self.steps)]
        final: Plan = [(self.refine, 1)] if self.search else []
        return from_image + from_noise * (self.restarts - 1) + final

    def step(self, p: Problem, s: BoundaryState, query: Query) -> BoundaryState:
        """Step to the nearest boundary, look, and go back where it succeeded."""
        value, slope = self._boundary(p, s.x, query)
        value, order = value.to(s.score.dtype), _ORDER[self.traits.norm]
        x = ops.fab_step(s.x, p.x, slope, value, self.eta, self.alpha_max, order)
        success = p.goal.reached(query.logits(x))
        back = p.x + (x - p.x) * self.beta
        return self._keep(p, s, x, success).replace(x=torch.where(_wide(success), back, x))

    def restart(self, p: Problem, s: BoundaryState, query: Query) -> BoundaryState:
        """Start at a random point half as far as the nearest success, or as the budget."""
        like = p.x.flatten(1)
        if self.traits.norm == "linf":
            drawn = 2 * uniform(p, like, _DIRECTION, s.starts) - 1
        else:
            drawn = normal(p, like, _DIRECTION, s.starts)
        order = _ORDER[self.traits.norm]
        length = torch.linalg.vector_norm(drawn, order, dim=1, keepdim=True)
        radius = (-s.score).clamp_max(self.eps or self.reach)[:, None] / 2
        noise = (drawn / length * radius).to(p.x.dtype).reshape(p.x.shape)
        return s.replace(x=(p.x + noise).clamp(0, 1), starts=s.starts + 1)

    def refine(self, p: Problem, s: BoundaryState, query: Query) -> BoundaryState:
        """Look for the boundary on the way to the nearest success, as if logits were linear."""
        # a row without a success stays at its last iterate
        inner, outer = p.x, torch.where(_wide(s.found), s.nearest, s.x)
        logits, beyond = query.logits(inner), query.logits(outer)
        for _ in range(self.search):
            loses, wins = logits.argmax(1, keepdim=True), beyond.argmax(1, keepdim=True)
            before = (logits.gather(1, loses) - logits.gather(1, wins))[:, 0]
            after = (beyond.gather(1, wins) - beyond.gather(1, loses))[:, 0]
            share = before / (before + after + 1e-10) * (1 + _BEYOND)
            share = torch.where(s.found & (share >= 0) & (share <= 1), share, 1)
            x = torch.lerp(inner, outer, _wide(share).to(inner.dtype)).clamp(0, 1)
            between = query.logits(x)
            success = p.goal.reached(between)
            s = self._keep(p, s, x, success)
            inner = torch.where(_wide(success), inner, x)
            outer = torch.where(_wide(success), x, outer)
            logits = torch.where(success[:, None], logits, between)
            beyond = torch.where(success[:, None], between, beyond)
        return s.replace(x=torch.where(_wide(s.found), s.nearest, s.x))

    def _boundary(self, p: Problem, x: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Value and gradient at x of the difference of logits that is 0 on the boundary."""
        if p.targeted:
            answer = query.objective(x, lambda parts: _lead(p, parts))
            return answer.loss, answer.grad
        logits, slopes = query.jacobian(x, lambda logits: _differences(p, logits))
        values = logits.gather(1, _others(p, logits)) - logits.gather(1, p.y[:, None])
        size = torch.linalg.vector_norm(slopes.flatten(2), _DUAL[self.traits.norm], dim=2)
        nearest = (values.abs() / (size.to(values.dtype) + _TINY)).argmin(1)
        rows = torch.arange(len(x), device=x.device)
        return values[rows, nearest], slopes[rows, nearest]

    def _keep(self, p: Problem, s: BoundaryState, x: Tensor, success: Tensor) -> BoundaryState:
        distance = ops.row_norms(x, p.x)[NORMS.index(self.traits.norm)].to(s.score.dtype)
        score = torch.where(success, -distance, -torch.inf)
        nearest, found, score, _ = ops.track_best(
            s.nearest, s.found, s.score, x, success, score, False
        )
        return s.replace(nearest=nearest, found=found, score=score)


@dataclass(frozen=True, kw_only=True, slots=True)
class FABL2(FAB):
    """Fast adaptive boundary attack, L2 (Croce and Hein, arXiv:1907.02044); see `FAB`."""

    name: ClassVar[str] = "fab_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum")

    reach: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FABL1(FAB):
    """Fast adaptive boundary attack, L1 (Croce and Hein, arXiv:1907.02044); see `FAB`."""

    name: ClassVar[str] = "fab_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", goal="minimum")

    reach: float = 5.0


def _wide(rows: Tensor) -> Tensor:
    return rows[:, None, None, None]


def _lead(p: Problem, parts: Parts) -> Tensor:
    """(B,) how far the class aimed at is ahead: of the label, or of all others if it is to win."""
    logits = parts.logits
    aimed = logits.gather(1, p.y[:, None])[:, 0]
    if not p.goal.targeted:
        return aimed - logits.gather(1, p.labels[:, None])[:, 0]
    return aimed - logits.scatter(1, p.y[:, None], -torch.inf).amax(1)


def _others(p: Problem, logits: Tensor) -> Tensor:
    """(B, K - 1) the classes but the label, in order."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return others + (others >= p.y[:, None])


def _differences(p: Problem, logits: Tensor) -> Tensor:
    """(B, K - 1, K) coefficients of each other logit less the label's."""
    number = logits.shape[1]
    ahead = functional.one_hot(_others(p, logits), number)
    return (ahead - functional.one_hot(p.y, number)[:, None]).to(logits.dtype)

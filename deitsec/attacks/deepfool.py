"""DeepFool, in L2 and L-infinity."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from deitsec import ops
from deitsec.attacks.attack import Attack
from deitsec.types import Norm, Plan, Problem, Query, State, Traits

_ORDER: dict[Norm, float] = {"linf": math.inf, "l2": 2.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossingState(State):
    """State with the perturbation as it is before the overshoot.

    Attributes:
        total: (B, C, H, W).
        classes: (B, candidates - 1) int64, whose boundaries are looked at, likeliest first; -1
            until the model has said so.
    """

    total: Tensor
    classes: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepFool(Attack):
    """DeepFool, L2 (Moosavi-Dezfooli et al., arXiv:1511.04599).

    Each step crosses the nearest of the linearised boundaries between the label and the classes
    that are likeliest on the clean image; a row is done as soon as its image is misclassified.

    Attributes:
        eps: distance within which a success counts, where only that is asked; None takes any.
        steps: most steps of a row.
        candidates: how many classes are looked at, the label among them: a step takes a gradient
            for each but one.
        overshoot: share of the perturbation that is added to it.
    """

    name: ClassVar[str] = "deepfool"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum", targeted=False)

    eps: float | None = None
    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        if self.eps is not None and not 0 < self.eps < math.inf:
            raise ValueError(f"{self.name}: eps must be > 0 and finite, got {self.eps}")
        for what, least in (("steps", 1), ("candidates", 2)):
            if getattr(self, what) < least:
                raise ValueError(
                    f"{self.name}: {what} must be at least {least}, got {getattr(self, what)}"
                )
        if not 0 <= self.overshoot < math.inf:
            raise ValueError(
                f"{self.name}: overshoot must be >= 0 and finite, got {self.overshoot}"
            )

    def init(self, p: Problem) -> CrossingState:
        """Start at the image."""
        unknown = p.y.new_full((len(p.y), self.candidates - 1), -1)
        return CrossingState(
            x=p.x,
            done=torch.zeros_like(p.y, dtype=torch.bool),
            total=torch.zeros_like(p.x),
            classes=unknown,
        )

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    def step(self, p: Problem, s: CrossingState, query: Query) -> CrossingState:
        """Cross the nearest boundary, where the image is still classified right."""
        logits, slopes = query.jacobian(s.x, lambda logits: self._differences(p, s, logits))
        aims = self._aims(p, s, logits)
        values = logits.gather(1, aims) - logits.gather(1, p.y[:, None])
        done = p.goal.reached(logits)
        total, x = ops.deepfool_step(
            s.total,
            p.x,
            slopes,
            values.to(torch.promote_types(p.x.dtype, torch.float32)),
            done,
            self.overshoot,
            _ORDER[self.traits.norm],
        )
        unused = s.classes.shape[1] - aims.shape[1]
        return s.replace(x=x, done=done, total=total, classes=functional.pad(aims, (0, unused)))

    def _aims(self, p: Problem, s: CrossingState, logits: Tensor) -> Tensor:
        """(B, J) the classes whose boundaries are looked at: those of the first step."""
        number = min(self.candidates, logits.shape[1]) - 1
        others = logits.scatter(1, p.y[:, None], -torch.inf)
        likeliest = others.argsort(dim=1, descending=True, stable=True)[:, :number]
        known = s.classes[:, :number]
        return torch.where(known < 0, likeliest, known)

    def _differences(self, p: Problem, s: CrossingState, logits: Tensor) -> Tensor:
        """(B, J, K) coefficients of each of their logits less the label's."""
        number = logits.shape[1]
        ahead = functional.one_hot(self._aims(p, s, logits), number)
        return (ahead - functional.one_hot(p.y, number)[:, None]).to(logits.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepFoolLinf(DeepFool):
    """DeepFool, L-infinity (Moosavi-Dezfooli et al., arXiv:1511.04599, section 3.3)."""

    name: ClassVar[str] = "deepfool_linf"
    traits: ClassVar[Traits] = Traits(norm="linf", goal="minimum", targeted=False)

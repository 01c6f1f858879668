"""What every attack is: a frozen configuration and pure steps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from deitsec.types import Evidence, Norm, Plan, Problem, State, Traits

TARGET_POLICIES = ("least-likely", "next", "random")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack(ABC):
    """Base of all attacks.

    Attributes:
        target: how the engine picks targets where the caller gives none: `least-likely` (of the
            clean image, the label left out), `next` (label + 1), `random` (keyed by sample id), or
            a class index; None attacks untargeted.
        confidence: a targeted attack succeeds only where the softmax of the target reaches this.
        num_targets: make the label lose by aiming, one try after the other, at each of this many
            classes, those that the model finds likeliest on the clean image first (the
            multi-targeted attack, Gowal et al., arXiv:1910.09338); at most the classes less one.
            0 does not.
    """

    name: ClassVar[str]
    traits: ClassVar[Traits]

    target: str | int | None = None
    confidence: float = 0.0
    num_targets: int = 0

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: an unknown target policy, a confidence outside [0, 1), or a number of
                targets that is negative or goes with no attack like this.
        """
        if isinstance(self.target, str) and self.target not in TARGET_POLICIES:
            raise ValueError(
                f"{self.name}: target must be one of {', '.join(TARGET_POLICIES)} or a class "
                f"index, got {self.target!r}"
            )
        if self.target is not None and not self.traits.targeted:
            raise ValueError(f"{self.name} cannot aim at a class; leave target out")
        if self.num_targets < 0:
            raise ValueError(f"{self.name}: num_targets must be >= 0, got {self.num_targets}")
        if self.num_targets and (self.target is not None or not self.traits.targeted):
            raise ValueError(
                f"{self.name}: num_targets aims at several classes in turn, so it needs an attack "
                "that can aim and goes without target="
            )
        if not 0 <= self.confidence < 1:
            raise ValueError(f"{self.name}: confidence must be in [0, 1), got {self.confidence}")

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets; a success ends the tries after it."""
        return 1

    @property
    def radius(self) -> float | None:
        """Distance up to which a perturbation counts, in the attack's norm; None counts any."""
        return getattr(self, "eps", None)

    @property
    def lead(self) -> float:
        """By how much the winning logit has to be ahead for a success to count."""
        return getattr(self, "kappa", 0.0)

    @property
    def limit(self) -> float | None:
        """How far it may change an image, as a report says it; None as far as it takes."""
        return self.radius

    @property
    def patches(self) -> int | None:
        """How many patches of an image it may change, to anything; None where it keeps to none."""
        return None

    @property
    def minimizes(self) -> bool:
        """Whether the nearest of a row's successes is kept, and the row goes on after the first."""
        return self.traits.goal == "minimum" and self.radius is None

    @property
    def stages(self) -> tuple["Attack", ...]:
        """The attacks that this one runs in turn, each on the rows that are still standing."""
        return (self,)

    @property
    def made_for(self) -> Mapping[str, str] | None:
        """Name and sha256 of the model that what it applies was made for; None for no model."""
        return None

    @property
    def spares(self) -> bool:
        """Whether a row whose clean image reaches the goal already is left as it is."""
        return self.traits.goal == "minimum"

    def second_opinion(self, evidence: Evidence) -> tuple["Attack", ...]:
        """The stages to add in view of what the others came to, on rows attacked together."""
        return ()

    def init(self, p: Problem) -> State:
        """Return the state before the first step."""
        return State(x=p.x)

    @abstractmethod
    def plan(self) -> Plan:
        """Return the program: phases, and how often each runs."""

    def plan_for(self, features: int) -> Plan:
        """Return the program for images of so many values, where its length hangs on them."""
        return self.plan()


def check_budget(
    name: str,
    eps: float,
    *,
    norm: Norm = "linf",
    alpha: float | None = None,
    steps: int = 1,
) -> None:
    """Raise a ValueError for a budget that no attack can use: eps, alpha or steps not positive.

    In L-infinity a radius above 1 is beyond the images; in other norms it is not.
    """
    for what, value in (("eps", eps), ("alpha", alpha)):
        if value is None:
            continue
        if norm == "linf" and not 0 < value <= 1:
            why = " (images are in [0, 1])" if what == "eps" else ""
            raise ValueError(f"{name}: {what} must be in (0, 1]{why}, got {value}")
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: {what} must be > 0 and finite, got {value}")
    if steps < 1:
        raise ValueError(f"{name}: steps must be at least 1, got {steps}")


def check_share(name: str, what: str, value: float) -> None:
    """Raise a ValueError for a share that is not in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}: {what} must be in (0, 1], got {value}")


def check_positive(name: str, **values: float | None) -> None:
    """Raise a ValueError for an option that is no finite number above 0; None passes."""
    for what, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name}: {what} must be > 0 and finite, got {value}")


def check_least(name: str, least: float, **values: float) -> None:
    """Raise a ValueError for an option below the least that it may be, or infinite."""
    for what, value in values.items():
        if not least <= value < float("inf"):
            raise ValueError(f"{name}: {what} must be at least {least}, got {value}")

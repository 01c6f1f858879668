"""What every attack is: a frozen configuration and pure steps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from deitsec.types import Plan, Problem, State, Traits

TARGET_POLICIES = ("least-likely", "next", "random")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack(ABC):
    """Base of all attacks.

    Attributes:
        target: how the engine picks targets where the caller gives none: `least-likely` (of the
            clean image, the label left out), `next` (label + 1), `random` (keyed by sample id), or
            a class index; None attacks untargeted.
        confidence: a targeted attack succeeds only where the softmax of the target reaches this.
    """

    name: ClassVar[str]
    traits: ClassVar[Traits]

    target: str | int | None = None
    confidence: float = 0.0

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: an unknown target policy, or a confidence outside [0, 1).
        """
        if isinstance(self.target, str) and self.target not in TARGET_POLICIES:
            raise ValueError(
                f"{self.name}: target must be one of {', '.join(TARGET_POLICIES)} or a class "
                f"index, got {self.target!r}"
            )
        if self.target is not None and not self.traits.targeted:
            raise ValueError(f"{self.name} cannot aim at a class; leave target out")
        if not 0 <= self.confidence < 1:
            raise ValueError(f"{self.name}: confidence must be in [0, 1), got {self.confidence}")

    def init(self, p: Problem) -> State:
        """Return the state before the first step."""
        return State(x=p.x)

    @abstractmethod
    def plan(self) -> Plan:
        """Return the program: phases, and how often each runs."""


def check_budget(name: str, eps: float, *, alpha: float | None = None, steps: int = 1) -> None:
    """Raise a ValueError for a budget that no attack can use: eps, alpha or steps not positive."""
    if not 0 < eps <= 1:
        raise ValueError(f"{name}: eps must be in (0, 1] (images are in [0, 1]), got {eps}")
    if alpha is not None and not 0 < alpha <= 1:
        raise ValueError(f"{name}: alpha must be in (0, 1], got {alpha}")
    if steps < 1:
        raise ValueError(f"{name}: steps must be at least 1, got {steps}")

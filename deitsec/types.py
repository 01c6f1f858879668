"""The words that attacks, engine and models share."""

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from torch import Tensor

Norm = Literal["linf", "l2", "l1", "l0"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What an attack needs and promises, as data: the contract tests read it.

    Attributes:
        norm: the norm of its budget, or the one that it minimises.
        goal: `budget` (stay within eps) or `minimum` (smallest perturbation that succeeds).
        needs: what it asks of the model.
        targeted: whether it can aim at a chosen class.
        untargeted: whether it can run without one.
        iterative: whether more steps make it stronger.
        deterministic: whether it draws no random number.
    """

    norm: Norm
    goal: Literal["budget", "minimum"] = "budget"
    needs: Literal["gradient", "scores", "decision"] = "gradient"
    targeted: bool = True
    untargeted: bool = True
    iterative: bool = True
    deterministic: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A batch of rows to attack.

    Attributes:
        x: (B, C, H, W) clean images in [0, 1].
        y: (B,) int64, the class the loss is taken at: the target if targeted, else the label.
        sample_ids: (B,) int64, the identity of each row and, in the bits from 48 up, of the try
            (restart, target) that it stands for; every random draw is keyed by it.
        seed: the seed of the run, shared by all rows.
        targeted: whether `y` is to win (impersonation) or to lose (denial of service).
    """

    x: Tensor
    y: Tensor
    sample_ids: Tensor
    seed: int = 0
    targeted: bool = False

    @property
    def direction(self) -> float:
        """+1 where the loss at `y` is climbed (untargeted), -1 where it is descended."""
        return -1.0 if self.targeted else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What changes while an attack runs; attacks that carry more add fields.

    Every field is a tensor with the rows first, so that the engine can move rows between batches
    without knowing the attack; one that belongs to no row is declared by `field(metadata=SHARED)`.

    Attributes:
        x: (B, C, H, W) the iterate, in [0, 1].
    """

    x: Tensor

    def replace(self, **changes: Any) -> Self:
        """Return a copy with the named fields changed."""
        return dataclasses.replace(self, **changes)


# of a field that belongs to no row: `field(metadata=SHARED)`; it stays when rows are picked
SHARED = {"shared": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlight:
    """The rows that a model is being asked about, for a model that draws random numbers.

    Attributes:
        sample_ids: (B,) int64, as in `Problem`.
        seed: the seed of the run.
        stream: tells the draws of one forward pass from those of another.
    """

    sample_ids: Tensor
    seed: int
    stream: int


IN_FLIGHT: ContextVar[InFlight | None] = ContextVar("in_flight", default=None)


class Query(Protocol):
    """What an attack may ask of the model; the engine counts and keeps what passes through."""

    def grad(self, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
        """Gradient of each row's loss with respect to that row of `x`; same shape as `x`."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`, without a gradient."""
        ...


Step = Callable[[Problem, Any, Query], Any]
Plan = list[tuple[Step, int]]

"""The words that attacks, engine and models share."""

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")

# what a model lets an attacker have: gradients, logits only, or the predicted class only
Access = Literal["gradient", "scores", "decision"]
ACCESSES: tuple[Access, ...] = ("decision", "scores", "gradient")  # each gives the former too

# what an attack sees of a model: with the logits, the heads or the attention they come from
Part = Literal["logits", "heads", "attention"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What an attack needs and promises, as data: the contract tests read it.

    Attributes:
        norm: the norm of its budget, or the one that it minimises.
        goal: `budget` (stay within a radius), `minimum` (smallest perturbation that succeeds), or
            `anywhere` (any image of the box: fooling images, physical objects).
        needs: what it asks of the model.
        part: what it looks at beside the logits, which not every model has.
        targeted: whether it can aim at a chosen class.
        untargeted: whether it can run without one.
        iterative: whether more steps make it stronger.
        deterministic: whether it draws no random number.
    """

    norm: Norm
    goal: Literal["budget", "minimum", "anywhere"] = "budget"
    needs: Access = "gradient"
    part: Part = "logits"
    targeted: bool = True
    untargeted: bool = True
    iterative: bool = True
    deterministic: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """The aim of an attack on some rows.

    Untargeted is denial of service: the true class does not win. Targeted is impersonation: the
    target wins, with at least the asked confidence.

    Attributes:
        y: (B,) int64, the target if targeted, else the label.
        targeted: which of the two.
        confidence: least softmax of the target.
        kappa: by how much the winner's logit has to be ahead: the target of the others, or the best
            other of the label.
    """

    y: Tensor
    targeted: bool
    confidence: float = 0.0
    kappa: float = 0.0

    def reached(self, logits: Tensor, predicted: Tensor | None = None) -> Tensor:
        """(B,) bool: whether the goal is reached at these logits (B, K)."""
        winner = logits.argmax(1) if predicted is None else predicted
        if self.kappa > 0:
            ahead = torch.full_like(logits[:, :1], -self.kappa if self.targeted else self.kappa)
            winner = logits.scatter_add(1, self.y[:, None], ahead).argmax(1)
        if not self.targeted:
            return winner != self.y
        won = winner == self.y
        if self.confidence > 0:
            probability = logits.float().softmax(1).gather(1, self.y[:, None])[:, 0]
            won = won & (probability >= self.confidence)
        return won


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A batch of rows to attack.

    Attributes:
        x: (B, C, H, W) clean images in [0, 1].
        y: (B,) int64, the class the loss is taken at: the target if targeted, else the label.
        labels: (B,) int64, the true classes, which the targets differ from.
        goal: what counts as success. An attack that aims at several classes in turn to make the
            label lose (`num_targets`) is `targeted`, and its goal is not.
        sample_ids: (B,) int64, the identity of each row and, in the bits from 48 up, of the try
            (restart, target) that it stands for; every random draw is keyed by it.
        seed: the seed of the run, shared by all rows.
        targeted: whether `y` is to win (impersonation) or to lose (denial of service).
    """

    x: Tensor
    y: Tensor
    labels: Tensor
    goal: Goal
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
        done: (B,) bool, rows that the attack has finished with, which may leave; None where it
            never finishes with a row before its plan ends. They go on until the engine looks.
    """

    x: Tensor
    done: Tensor | None = None

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model says at an image, with the gradient of a loss.

    Attributes:
        grad: (B, C, H, W) gradient of each row's loss.
        loss: (B,) at least fp32.
        logits: (B, K) at least fp32.
    """

    grad: Tensor
    loss: Tensor
    logits: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a model gave for its input, in the graph of it.

    Attributes:
        logits: (B, K).
        heads: (B, K) logits of the class head and of the distillation head of a distilled network;
            None where they were not asked for.
        attention: (B, heads, T, T) softmax of each block, first to last, rows the queries; empty
            where it was not asked for.
    """

    logits: Tensor
    heads: tuple[Tensor, Tensor] | None = None
    attention: tuple[Tensor, ...] = ()


Change = Callable[[Tensor], Tensor]


class Query(Protocol):
    """What an attack may ask of the model; the engine counts and keeps what passes through.

    Every image asked about is offered to what is kept of its row: it counts as a candidate, unless
    `offer` is False (an image outside of the ball or the box, a neighbour that only guides) or it
    is seen `through` a change. The clean image `p.x` itself is never a candidate.
    """

    def grad(self, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
        """Gradient of each row's loss with respect to that row of `x`; same shape as `x`."""
        ...

    def ask(
        self,
        x: Tensor,
        y: Tensor,
        loss: str = "ce",
        *,
        targets: Tensor | None = None,
        through: Change | None = None,
        offer: bool = True,
    ) -> Answer:
        """Loss, gradient and logits at `x`, of a fused loss.

        Args:
            x: (B, C, H, W).
            y: (B,) class of the loss.
            loss: see `deitsec.ops.classification_loss`.
            targets: (B,) where the loss takes them.
            through: a differentiable change of the images, which the model sees in their place;
                the gradient is that in `x`.
            offer: whether `x` is a candidate.
        """
        ...

    def objective(
        self,
        x: Tensor,
        objective: Callable[[Parts], Tensor],
        *,
        part: Part = "logits",
        through: Change | None = None,
        offer: bool = True,
    ) -> Answer:
        """Value and gradient at `x` of any objective, given as a differentiable formula.

        Several objectives share a forward pass, and the answer's `loss` is (B, J) and its `grad`
        (B, J, C, H, W) then.

        Args:
            x: (B, C, H, W).
            objective: `Parts` -> (B,), row by row, or (B, J).
            part: what the objective needs beside the logits.
            through: see `ask`.
            offer: see `ask`.
        """
        ...

    def jacobian(
        self, x: Tensor, directions: Callable[[Tensor], Tensor], *, offer: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Gradients at `x` of several linear forms of the logits, from one forward pass.

        Args:
            x: (B, C, H, W).
            directions: logits (B, K) -> (B, J, K), the coefficients of J forms.
            offer: see `ask`.

        Returns:
            (B, K) logits and (B, J, C, H, W) gradients.
        """
        ...

    def logits(self, x: Tensor, *, offer: bool = True) -> Tensor:
        """(B, K) logits at `x`, without a gradient."""
        ...

    def predict(self, x: Tensor, *, offer: bool = True) -> Tensor:
        """(B,) int64 predicted classes: all that an attack on decisions may ask for."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the stages of an attack came to on some rows attacked together.

    Attributes:
        rows: how many.
        fell: rows that fell to each stage, which those before had not broken.
        undriven: rows that stand, and whose every gradient was exactly 0.
        non_finite: rows on which a gradient or a loss was NaN or inf.
    """

    rows: int
    fell: tuple[int, ...]
    undriven: int
    non_finite: int

    @property
    def fallen(self) -> int:
        """Rows that fell to any stage."""
        return sum(self.fell)


Step = Callable[[Problem, Any, Query], Any]
Plan = list[tuple[Step, int]]

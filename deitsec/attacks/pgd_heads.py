"""Projected gradient descent on one head of a distilled transformer, or on both."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.exact_loss import exact_loss
from deitsec.attacks.pgd import PGD
from deitsec.types import Parts, Problem, Query, State, Traits

HEADS = ("class", "distillation", "both")


@dataclass(frozen=True, kw_only=True, slots=True)
class PGDHeads(PGD):
    """PGD whose loss is taken at the class head, the distillation head or both.

    A distilled DeiT (arXiv:2012.12877) answers by the mean of two heads, one on the class token and
    one on the distillation token. Which of them gives way tells more than that the mean does. The
    attack succeeds where the model as it answers is wrong: on one head, load it with that
    (`head="class"`).

    Attributes:
        head: `class`, `distillation` or `both`, the sum of their cross-entropies.
    """

    name: ClassVar[str] = "pgd_heads"
    traits: ClassVar[Traits] = Traits(norm="linf", part="heads", deterministic=False)

    head: str = "both"

    def __post_init__(self) -> None:
        """Validate the configuration."""
        PGD.__post_init__(self)
        if self.head not in HEADS:
            raise ValueError(
                f"{self.name}: head must be one of {', '.join(HEADS)}, got {self.head!r}"
            )

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a signed step, projected on the ball and the box."""

        def loss(parts: Parts) -> Tensor:
            assert parts.heads is not None
            first, second = parts.heads
            if self.head == "class":
                return exact_loss(first, p.y)
            if self.head == "distillation":
                return exact_loss(second, p.y)
            return exact_loss(first, p.y) + exact_loss(second, p.y)

        grad = query.objective(s.x, loss, part="heads").grad
        alpha = p.direction * self.step_size
        return s.replace(x=ops.linf_step(s.x, grad, p.x, alpha, self.eps))

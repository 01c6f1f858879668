"""The basic iterative method."""

import math
from dataclasses import dataclass
from typing import ClassVar

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class BIM(Attack):
    """Basic iterative method, or I-FGSM (Kurakin et al., arXiv:1607.02533, section 2.2).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; the paper's is one grey level.
        steps: number of steps; None takes the paper's min(eps + 4, 1.25 eps) in grey levels,
            rounded up.
    """

    name: ClassVar[str] = "bim"
    traits: ClassVar[Traits] = Traits(norm="linf")

    eps: float = 8 / 255
    alpha: float = 1 / 255
    steps: int | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, alpha=self.alpha, steps=self.num_steps)

    @property
    def num_steps(self) -> int:
        """Number of steps that will be taken."""
        if self.steps is not None:
            return self.steps
        levels = self.eps * 255
        return max(1, math.ceil(min(levels + 4, 1.25 * levels) - 1e-6))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.num_steps)]

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a signed step of size alpha, projected on the ball and the box."""
        grad = query.grad(s.x, p.y)
        return s.replace(x=ops.linf_step(s.x, grad, p.x, p.direction * self.alpha, self.eps))

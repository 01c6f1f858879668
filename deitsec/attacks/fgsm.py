"""The fast gradient sign method."""

from dataclasses import dataclass
from typing import ClassVar

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al., arXiv:1412.6572).

    `x + eps * sign(grad L(x, y))`; with `target="least-likely"` the one-step least-likely class
    method (Kurakin et al., arXiv:1611.01236).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
    """

    name: ClassVar[str] = "fgsm"
    traits: ClassVar[Traits] = Traits(norm="linf", iterative=False)

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps)

    def plan(self) -> Plan:
        """Return one step."""
        return [(self.step, 1)]

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Go to the corner of the ball that the gradient points at."""
        grad = query.grad(s.x, p.y)
        return s.replace(x=ops.linf_step(s.x, grad, p.x, p.direction * self.eps, self.eps))

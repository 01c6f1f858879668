"""Projected gradient descent in the L-infinity ball."""

from dataclasses import dataclass
from typing import ClassVar

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., arXiv:1706.06083, eq. 2.1).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes eps / 4, which is 2/255 at 8/255.
        steps: number of steps.
        random_start: whether to start at a uniform point of the ball instead of the image.
    """

    name: ClassVar[str] = "pgd"
    traits: ClassVar[Traits] = Traits(norm="linf", deterministic=False)

    eps: float = 8 / 255
    alpha: float | None = None
    steps: int = 10
    random_start: bool = True

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, alpha=self.alpha, steps=self.steps)

    @property
    def step_size(self) -> float:
        """Step size that will be used."""
        return self.eps / 4 if self.alpha is None else self.alpha

    def init(self, p: Problem) -> State:
        """Start at the image, or at a random point of its ball."""
        if not self.random_start:
            return State(x=p.x)
        return State(x=ops.random_start(p.x, p.sample_ids, self.eps, p.seed))

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a signed step, projected on the ball and the box."""
        grad = query.grad(s.x, p.y)
        alpha = p.direction * self.step_size
        return s.replace(x=ops.linf_step(s.x, grad, p.x, alpha, self.eps))

"""Projected gradient descent in the L-infinity ball."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.projected_gradient import ProjectedGradient
from deitsec.types import Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class PGD(ProjectedGradient):
    """Projected gradient descent (Madry et al., arXiv:1706.06083, eq. 2.1).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes eps / 4, which is 2/255 at 8/255.
    """

    name: ClassVar[str] = "pgd"
    traits: ClassVar[Traits] = Traits(norm="linf", deterministic=False)

    eps: float = 8 / 255

    @property
    def step_size(self) -> float:
        """Step size that will be used."""
        return self.eps / 4 if self.alpha is None else self.alpha

    def random_point(self, p: Problem) -> Tensor:
        """Uniform point of the ball, clipped to the box."""
        return ops.random_start(p.x, p.sample_ids, self.eps, p.seed)

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a signed step, projected on the ball and the box."""
        grad = query.grad(s.x, p.y)
        alpha = p.direction * self.step_size
        return s.replace(x=ops.linf_step(s.x, grad, p.x, alpha, self.eps))

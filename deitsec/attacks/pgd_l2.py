"""Projected gradient descent in the L2 ball."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.projected_gradient import ProjectedGradient
from deitsec.attacks.starts import l2_start
from deitsec.types import Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class PGDL2(ProjectedGradient):
    """Projected gradient descent in the L2 ball (Madry et al., arXiv:1706.06083).

    A step of length alpha along the gradient, projected on the ball and clipped to the box.

    Attributes:
        eps: L2 radius on images in [0, 1].
        alpha: step size; None takes 2.5 eps / steps, which reaches every point of the ball.
    """

    name: ClassVar[str] = "pgd_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", deterministic=False)

    eps: float = 0.5

    @property
    def step_size(self) -> float:
        """Step size that will be used."""
        return 2.5 * self.eps / self.steps if self.alpha is None else self.alpha

    def random_point(self, p: Problem) -> Tensor:
        """Uniform point of the ball, clipped to the box."""
        return l2_start(p, self.eps)

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a step along the gradient, projected on the ball and clipped to the box."""
        grad = query.grad(s.x, p.y)
        alpha = p.direction * self.step_size
        return s.replace(x=ops.l2_step(s.x, grad, p.x, alpha, self.eps))

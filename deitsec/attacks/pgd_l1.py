"""Projected gradient descent in the L1 ball."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import check_share
from deitsec.attacks.projected_gradient import ProjectedGradient
from deitsec.attacks.starts import l1_start
from deitsec.types import Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class PGDL1(ProjectedGradient):
    """Projected gradient descent in the L1 ball, cut with the box.

    Each step moves the pixels of largest gradient only, the steepest ascent in L1 being one pixel
    (Tramer and Boneh, arXiv:1904.13000), and is projected on the intersection of ball and box,
    since projecting on one after the other leaves most of the budget unused (Croce and Hein,
    arXiv:2103.01208).

    Attributes:
        eps: L1 radius on images in [0, 1].
        alpha: L1 length of a step; None takes 2.5 eps / steps.
        density: share of the pixel values that move in a step.
    """

    name: ClassVar[str] = "pgd_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", deterministic=False)

    eps: float = 12.0
    density: float = 0.05

    def __post_init__(self) -> None:
        """Validate the configuration."""
        ProjectedGradient.__post_init__(self)
        check_share(self.name, "density", self.density)

    @property
    def step_size(self) -> float:
        """Step size that will be used."""
        return 2.5 * self.eps / self.steps if self.alpha is None else self.alpha

    def random_point(self, p: Problem) -> Tensor:
        """Uniform point of the ball, clipped to the box."""
        return l1_start(p, self.eps)

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Move the pixels of largest gradient, and project on the ball within the box."""
        grad = query.grad(s.x, p.y)
        moving = max(1, round(self.density * p.x[0].numel()))
        k = torch.full_like(p.sample_ids, moving)
        alpha = p.direction * self.step_size
        return s.replace(x=ops.l1_step(s.x, grad, p.x, k, alpha, self.eps))

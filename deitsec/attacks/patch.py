"""Signed steps within a few patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from deitsec import ops
from deitsec.attacks.patch_attack import PatchAttack, PatchState, gradient_scores
from deitsec.types import Plan, Problem, Query, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch(PatchAttack):
    """Projected gradient descent within the patches of largest gradient, an L0 baseline.

    The baseline of Fu et al. (arXiv:2203.08392, section 4): any change of `num_patches` patches,
    none elsewhere, on any model. The patches are those where the gradient of the loss at the clean
    image has the largest L1 norm.

    Attributes:
        patch_size: side of a patch in pixels, a divisor of both sides of the image; None takes 16,
            or less where the image has fewer than 4 of those.
        num_patches: how many patches of a row are changed.
        pick: `gradient` or `random`.
        alpha: step size.
        steps: number of steps.
        random_start: whether the patches start as uniform noise instead of the image.
        restarts: how often a row is tried, each time from another noise.
    """

    name: ClassVar[str] = "patch"
    traits: ClassVar[Traits] = Traits(norm="l0", deterministic=False)
    picks: ClassVar[tuple[str, ...]] = ("gradient", "random")

    pick: str = "gradient"
    alpha: float = 0.05
    steps: int = 100

    def init(self, p: Problem) -> PatchState:
        """Start at the image, with no patch."""
        self.grid(p.x.shape[1:])
        return PatchState(x=p.x, mask=torch.zeros_like(p.x[:, :1]))

    def plan(self) -> Plan:
        """Choose the patches, then take the same step, repeated."""
        return [(self.choose, 1), (self.step, self.steps)]

    def choose(self, p: Problem, s: PatchState, query: Query) -> PatchState:
        """Choose the patches at the clean image."""
        down, across = self.grid(p.x.shape[1:])
        if self.pick == "random":
            scores = self.at_random(p, down, across)
        else:
            scores = gradient_scores(query.grad(p.x, p.y), down, across)
        mask = self.chosen(p, scores)
        return s.replace(x=self.start(p, mask), mask=mask)

    def step(self, p: Problem, s: PatchState, query: Query) -> PatchState:
        """Take a signed step within the patches and the box."""
        grad = query.grad(s.x, p.y) * s.mask
        alpha = p.direction * self.alpha
        return s.replace(x=ops.linf_step(s.x, grad, p.x, alpha, 1.0))

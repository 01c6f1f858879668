"""The momentum iterative fast gradient sign method."""

from dataclasses import dataclass
from typing import Any, ClassVar

from deitsec.attacks.momentum_iterative import MomentumIterative
from deitsec.types import Problem, Query, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class MIFGSM(MomentumIterative):
    """Momentum iterative FGSM (Dong et al., arXiv:1710.06081, algorithm 1).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes the paper's eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the paper.
    """

    name: ClassVar[str] = "mifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf")

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the gradient at the iterate."""
        return self.advance(p, s, query.grad(s.x, p.y))

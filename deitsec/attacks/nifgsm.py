"""The Nesterov iterative fast gradient sign method."""

from dataclasses import dataclass
from typing import Any, ClassVar

from deitsec.attacks.momentum_iterative import MomentumIterative
from deitsec.types import Problem, Query, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class NIFGSM(MomentumIterative):
    """Nesterov iterative FGSM (Lin et al., arXiv:1908.06281, algorithm 1).

    MI-FGSM that takes the gradient where the momentum leads, `x + alpha * mu * g`, in place of x;
    g in units of mean magnitude 1, as in the authors' code. That point may lie outside of the
    ball, so the model is asked about the adversarial image itself at the end only.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes the paper's eps / steps (torchattacks: 2/255).
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the paper.
    """

    name: ClassVar[str] = "nifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf")

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the gradient that lies ahead."""
        answer = query.ask(self.lookahead(p, s), p.y, offer=False)
        return self.advance(p, s, answer.grad)

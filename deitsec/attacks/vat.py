"""The virtual adversarial perturbation: where a prediction moves fastest, without a label."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget, check_positive
from deitsec.attacks.draws import normal
from deitsec.attacks.smoothness import divergence, unit
from deitsec.types import Parts, Plan, Problem, Query, State, Traits

_DIRECTION = 2  # stream of the first direction


@dataclass(frozen=True, kw_only=True, slots=True)
class VATState(State):
    """The direction so far.

    Attributes:
        direction: (B, C, H, W) of length 1.
        clean: (B, K) logits at the image; None until the model has been asked.
    """

    direction: Tensor
    clean: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VAT(Attack):
    """The virtual adversarial perturbation (Miyato et al., arXiv:1704.03976, section 3.3).

    The divergence D(r) = KL(p(x) || p(x + r)) has its minimum at r = 0, so that it grows fastest
    along the dominant eigenvector of its Hessian. Power iteration finds it: each step takes the
    gradient of D at `xi` times the direction, which is the Hessian's product with it, and brings it
    to length 1. No label is looked at. Both ends of the direction, x + eps d and x - eps d, clipped
    to the box, are offered.

    Attributes:
        eps: L2 radius on images in [0, 1].
        steps: power iterations; the paper trains with 1.
        xi: L2 distance at which the gradient is taken, > 0; the paper's is 1e-6, where fp32 has
            few digits left.
    """

    name: ClassVar[str] = "vat"
    traits: ClassVar[Traits] = Traits(norm="l2", targeted=False, deterministic=False)

    eps: float = 0.5
    steps: int = 10
    xi: float = 1e-2

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm="l2", steps=self.steps)
        check_positive(self.name, xi=self.xi)

    def init(self, p: Problem) -> VATState:
        """Start at the image, with a random direction."""
        direction = normal(p, p.x, _DIRECTION).to(p.x.dtype)
        return VATState(x=p.x, direction=unit(direction))

    def plan(self) -> Plan:
        """Return a look at the image, the power iterations, and a look at each end."""
        return [(self.see, 1), (self.iterate, self.steps), (self.look, 1)]

    def see(self, p: Problem, s: VATState, query: Query) -> VATState:
        """Keep what the model says of the image, which every iteration compares with."""
        return s.replace(clean=query.logits(p.x))

    def iterate(self, p: Problem, s: VATState, query: Query) -> VATState:
        """Multiply the direction by the Hessian of the divergence."""
        assert s.clean is not None
        objective = partial(_divergence, clean=s.clean)
        grad = query.objective(p.x + self.xi * s.direction, objective, offer=False).grad
        return s.replace(direction=unit(grad, otherwise=s.direction))

    def look(self, p: Problem, s: VATState, query: Query) -> VATState:
        """Offer one end of the direction, and go to the other."""
        query.logits(self._end(p, s, self.eps))
        return s.replace(x=self._end(p, s, -self.eps))

    def _end(self, p: Problem, s: VATState, length: float) -> Tensor:
        return ops.l2_step(p.x, s.direction, p.x, length, self.eps)


def _divergence(parts: Parts, clean: Tensor) -> Tensor:
    return divergence(parts.logits, clean)

"""APGD in the L-infinity ball."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.draws import uniform
from deitsec.attacks.step_halving import HalvingState, StepHalving
from deitsec.types import Problem, Traits

_START = 4  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class APGD(StepHalving):
    """Auto-PGD in L-infinity (Croce and Hein, arXiv:2003.01690): no step size to choose.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
    """

    name: ClassVar[str] = "apgd"
    traits: ClassVar[Traits] = Traits(norm="linf", deterministic=False)

    eps: float = 8 / 255

    def random_point(self, p: Problem) -> Tensor:
        """A uniform point of the cube, scaled to the surface of the ball, clipped to the box."""
        noise = 2 * uniform(p, p.x, _START) - 1
        largest = noise.abs().amax((1, 2, 3), keepdim=True)
        return (p.x + (self.eps * noise / largest).to(p.x.dtype)).clamp(0, 1)

    def advance(
        self,
        p: Problem,
        s: HalvingState,
        grad: Tensor,
        better: Tensor,
        restart: Tensor,
        share: float,
    ) -> HalvingState:
        """Take a signed step with momentum, projected on ball and box."""
        step = self.direction(p) * s.step
        x_old, x, x_best, grad_best = ops.apgd_step_(
            s.x_old, s.x, s.x_best, s.grad_best, grad, p.x, better, restart, step, share, self.eps
        )
        return s.replace(x=x_old, x_old=x, x_best=x_best, grad_best=grad_best)

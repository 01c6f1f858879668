"""APGD in the L2 ball."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.draws import normal
from deitsec.attacks.step_halving import HalvingState, StepHalving
from deitsec.types import Problem, Traits

_START = 4  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class APGDL2(StepHalving):
    """Auto-PGD in L2 (Croce and Hein, arXiv:2003.01690): no step size to choose.

    Attributes:
        eps: L2 radius on images in [0, 1].
    """

    name: ClassVar[str] = "apgd_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", deterministic=False)

    eps: float = 0.5

    def random_point(self, p: Problem) -> Tensor:
        """A uniform point of the sphere of radius eps, clipped to the box."""
        noise = _unit(normal(p, p.x, _START))
        return (p.x + (self.eps * noise).to(p.x.dtype)).clamp(0, 1)

    def advance(
        self,
        p: Problem,
        s: HalvingState,
        grad: Tensor,
        better: Tensor,
        restart: Tensor,
        share: float,
    ) -> HalvingState:
        """Take a step along the gradient with momentum, projected on the ball and on the box."""
        rows = (-1, *(1,) * (p.x.ndim - 1))
        takes, returns = better.view(rows), restart.view(rows)
        x_best = torch.where(takes, s.x, s.x_best)
        grad_best = torch.where(takes, grad, s.grad_best)
        origin = torch.where(returns, x_best, s.x)
        slope = torch.where(returns, grad_best, grad)
        start, clean = origin.to(s.step.dtype), p.x.to(s.step.dtype)
        step = (self.direction(p) * s.step).view(rows)
        z = _project(start + step * _unit(slope.to(s.step.dtype)), clean, self.eps)
        ahead = start + (z - start) * share + (start - s.x_old.to(start.dtype)) * (1 - share)
        x = _project(ahead, clean, self.eps).to(p.x.dtype)
        return s.replace(x=x, x_old=origin, x_best=x_best, grad_best=grad_best)


def _project(x: Tensor, clean: Tensor, eps: float) -> Tensor:
    """The point of the ball nearest to `x`, clipped to the box; it stays in the ball by that."""
    delta = x - clean
    norm = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return (clean + delta * torch.where(norm > eps, eps / norm, 1)).clamp(0, 1)


def _unit(values: Tensor) -> Tensor:
    """Rows of Euclidean length 1; 0 where a row is 0 or not finite, and so has no direction."""
    # the squares of 1e-30 and of 1e30 are no fp32 numbers
    largest = values.abs().amax((1, 2, 3), keepdim=True)
    scaled = values / largest
    norm = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    usable = (largest > 0) & (largest < float("inf"))
    return torch.where(usable, scaled / norm, 0)

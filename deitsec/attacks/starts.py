"""Random points of the L2 and the L1 ball, which belong to the sample as every draw does."""

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.draws import normal, uniform
from deitsec.types import Problem

# streams of their own; 0 is the L-infinity start's, 1 the random target's
_DIRECTION, _RADIUS = 2, 3


def l2_start(p: Problem, eps: float) -> Tensor:
    """Uniform point of the L2 ball around each image, clipped to [0, 1].

    A direction from the normal distribution, and a radius eps * u**(1/n).
    """
    return _at(p, normal(p, p.x, _DIRECTION), eps, norm=1)


def l1_start(p: Problem, eps: float) -> Tensor:
    """Uniform point of the L1 ball around each image, clipped to [0, 1].

    A direction from the Laplace distribution, and a radius eps * u**(1/n).
    """
    drawn = uniform(p, p.x, _DIRECTION) - 0.5
    laplace = -drawn.sign() * torch.log1p(-2 * drawn.abs())
    return _at(p, laplace, eps, norm=2)


def _at(p: Problem, direction: Tensor, eps: float, norm: int) -> Tensor:
    """The point at a random radius along a direction; `norm` is its place in `row_norms`."""
    elements = p.x[0].numel() if len(p.x) else 1
    radius = uniform(p, p.x.flatten(1)[:, :1], _RADIUS)[:, 0] ** (1 / elements)
    length = ops.row_norms(direction, torch.zeros_like(direction))[norm]
    scale = (eps * radius / length).to(direction.dtype)
    return (p.x + (direction * scale[:, None, None, None]).to(p.x.dtype)).clamp(0, 1)

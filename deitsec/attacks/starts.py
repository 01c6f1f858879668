"""Random points of the L2 and the L1 ball, which belong to the sample as every draw does."""

import torch
from torch import Tensor

from deitsec import ops
from deitsec.types import Problem

# streams of their own; 0 is the L-infinity start's, 1 the random target's
_DIRECTION, _RADIUS = 2, 3
_HALF_STEP = 2.0**-24  # the draws are multiples of 2**-23: never 0 or 1 with half of that added


def l2_start(p: Problem, eps: float) -> Tensor:
    """Uniform point of the L2 ball around each image, clipped to [0, 1].

    A direction from the normal distribution, and a radius eps * u**(1/n).
    """
    normal = torch.special.ndtri(_uniform(p, p.x, _DIRECTION))
    return _at(p, normal, eps, norm=1)


def l1_start(p: Problem, eps: float) -> Tensor:
    """Uniform point of the L1 ball around each image, clipped to [0, 1].

    A direction from the Laplace distribution, and a radius eps * u**(1/n).
    """
    uniform = _uniform(p, p.x, _DIRECTION) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    return _at(p, laplace, eps, norm=2)


def _at(p: Problem, direction: Tensor, eps: float, norm: int) -> Tensor:
    """The point at a random radius along a direction; `norm` is its place in `row_norms`."""
    elements = p.x[0].numel() if len(p.x) else 1
    radius = _uniform(p, p.x.flatten(1)[:, :1], _RADIUS)[:, 0] ** (1 / elements)
    length = ops.row_norms(direction, torch.zeros_like(direction))[norm]
    scale = (eps * radius / length).to(direction.dtype)
    return (p.x + (direction * scale[:, None, None, None]).to(p.x.dtype)).clamp(0, 1)


def _uniform(p: Problem, like: Tensor, stream: int) -> Tensor:
    """Draws in (0, 1) of the shape of `like`, at least fp32."""
    wide = torch.promote_types(like.dtype, torch.float32)
    middle = torch.full_like(like, 0.5, dtype=wide)
    drawn = ops.random_start(middle, p.sample_ids, 0.5, p.seed, stream)
    return drawn * (1 - _HALF_STEP) + _HALF_STEP / 2

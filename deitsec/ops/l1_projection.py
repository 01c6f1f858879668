"""The exact projection on the intersection of an L1 ball and the box of images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor z, Tensor x0, float eps) -> Tensor")
def l1_projection(z: Tensor, x0: Tensor, eps: float) -> Tensor:
    """The point nearest to z, in L2, of the L1 ball of radius eps around x0 within [0, 1].

    With `v = z - x0` and the room `m = 1 - x0 where v > 0, else x0`, the perturbation is
    `sign(v) * clip(|v| - lambda, 0, m)`; lambda is 0 where that stays in the ball, else the number
    that makes its L1 norm eps (Croce & Hein, "Mind the box", arXiv:2103.01208, proposition 2.1).
    A NaN stays where it is and counts for nothing. No gradient flows through it. In bf16 and fp16
    the result is rounded once.

    Args:
        z: (B, ...) points; fp32, bf16, fp16 (fp64 by the reference).
        x0: the clean image in [0, 1], same shape and dtype.
        eps: radius of the ball, > 0.

    Returns:
        Shape and dtype of z.

    Raises:
        ValueError: shapes differ, a row without elements, or eps that is not a positive number.
        TypeError: dtypes that are not floating or differ.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    clean = x0.flatten(1).to(wide)
    return project(z.flatten(1).to(wide) - clean, clean, eps).to(z.dtype).reshape(z.shape)


def project(delta: Tensor, clean: Tensor, eps: float) -> Tensor:
    """(B, N) projected images, for perturbations of clean ones; fp32 or fp64."""
    size = delta.abs()
    room = torch.where(delta > 0, 1 - clean, clean)
    shrink = _find_lambda(size.double(), room.double(), eps).to(size.dtype)
    kept = torch.minimum((size - shrink).clamp_min(0), room)
    return (clean + delta.sign() * kept).clamp(0, 1)


def _find_lambda(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """(B, 1) lambdas of fp64 rows; in fp32 the sums over breakpoints would cancel."""
    size = torch.where(size.isnan(), 0, size)  # a NaN is left to itself
    full = (size - room).clamp_min(0)  # an entry stays at its room until lambda is here
    # the norm falls with lambda: an entry is in the sum below `size`, and out of it below `full`
    breaks, order = torch.cat([size, full], 1).sort(1, descending=True)
    weights = torch.cat([torch.ones_like(size), -torch.ones_like(full)], 1).gather(1, order)
    active, total = weights.cumsum(1), (weights * breaks).cumsum(1)
    last = ((total - breaks * active < eps).sum(1, keepdim=True) - 1).clamp_min(0)
    shrink = (total.gather(1, last) - eps) / active.gather(1, last).clamp_min(1)
    # on a flat piece that meets eps the sums tell by rounding which of its ends comes last
    following = breaks.gather(1, (last + 1).clamp_max(breaks.shape[1] - 1))
    shrink = shrink.maximum(following).minimum(breaks.gather(1, last))
    inside = torch.minimum(size, room).sum(1, keepdim=True) <= eps
    return torch.where(inside, 0, shrink)


l1_projection.backend("cpp", "torch.ops.deitsec_cpp.l1_projection", device="cpu")
l1_projection.backend("triton", "deitsec.kernels.l1_projection:l1_projection", device="cuda")


@l1_projection.check
def _check(z: Tensor, x0: Tensor, eps: float) -> None:
    _checks.same_shape("l1_projection", z.shape, x0=x0)
    _checks.floating("l1_projection", z=z, x0=x0)
    _checks.rows("l1_projection", z=z)
    _checks.positive("l1_projection", eps=eps)


@l1_projection.cost
def _cost(z: Tensor, x0: Tensor, eps: float) -> int:
    return 3 * z.numel() * z.element_size()


@l1_projection.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        x0 = make.images(*shape)
        yield x0 + make.normal(*shape), x0, 0.1
        yield x0 + make.normal(*shape, scale=0.1), x0, 12.0
    x0 = make.images(4, 3, 9, 9)
    x0[0], x0[1] = 0, 1
    z = make.normal(4, 3, 9, 9)
    z[2], z[3] = x0[2], x0[3] + 0.25
    yield z, x0, 3.0
    yield x0 + make.normal(4, 3, 9, 9, scale=100.0), x0, 40.0
    yield z.transpose(2, 3), x0, 3.0

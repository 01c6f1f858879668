"""The normalised step of the L2 attacks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor x, Tensor grad, Tensor x0, float alpha, float eps) -> Tensor", inplace="x")
def l2_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Ascent step of Euclidean length alpha, projected on the eps-ball around x0, then on [0, 1].

    `d = x + alpha * grad / ||grad||_2 - x0`, then `clip(x0 + d * min(1, eps / ||d||_2), 0, 1)`, the
    L2 step of PGD (arXiv:1706.06083). A row whose gradient is 0, or holds a NaN or an infinity,
    is projected and not moved; gradients of any other size count by their direction alone. No
    gradient flows through it. In bf16 and fp16 it is computed in fp32 and rounded once.

    Args:
        x: (B, ...) iterate in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        grad: gradient of the loss at x, same shape and dtype.
        x0: the clean image, same shape and dtype.
        alpha: length of the step; a negative one descends (targeted attacks).
        eps: radius of the ball, > 0.

    Returns:
        The next iterate, shape and dtype of x.

    Raises:
        ValueError: shapes differ, a row without elements, alpha that is not finite, or eps that is
            not a positive number.
        TypeError: dtypes that are not floating or differ.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    slope, clean = grad.flatten(1).to(wide), x0.flatten(1).to(wide)
    # the squares of 1e-30 and of 1e30 are no fp32 numbers
    largest = slope.abs().amax(1, keepdim=True)
    scaled = slope / largest
    unit = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    usable = (largest > 0) & (largest < float("inf"))
    delta = (x.flatten(1).to(wide) - clean) + alpha * torch.where(usable, unit, 0)
    norm = torch.linalg.vector_norm(delta, dim=1, keepdim=True)
    delta = delta * torch.where(norm > eps, eps / norm, 1)
    return (clean + delta).clamp(0, 1).to(x.dtype).reshape(x.shape)


l2_step.backend("cpp", "torch.ops.deitsec_cpp.l2_step", device="cpu")
l2_step.backend("triton", "deitsec.kernels.l2_step:l2_step", device="cuda")
assert l2_step.inplace is not None
l2_step_ = l2_step.inplace


@l2_step.check
def _check(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> None:
    _checks.same_shape("l2_step", x.shape, grad=grad, x0=x0)
    _checks.floating("l2_step", x=x, grad=grad, x0=x0)
    _checks.rows("l2_step", x=x)
    _checks.finite("l2_step", alpha=alpha)
    _checks.positive("l2_step", eps=eps)


@l2_step.cost
def _cost(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> int:
    return 4 * x.numel() * x.element_size()


@l2_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        x0 = make.images(*shape)
        x = (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1)
        yield x, make.normal(*shape), x0, 0.1, 0.5
        yield x, make.normal(*shape), x0, -3.0, 100.0
    x0 = make.images(9, 3, 9, 9)
    yield (x0.clone(), make.hostile_rows(9, 3, 9, 9), x0, 0.5, 0.3)
    yield (x0.clone(), make.normal(9, 3, 9, 9), x0, 0.5, 1e-3)
    strided = make.normal(9, 3, 9, 9).to(memory_format=torch.channels_last)
    yield x0.transpose(2, 3), strided, x0, 0.1, 0.5

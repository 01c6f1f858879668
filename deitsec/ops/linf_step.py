"""The signed step of the L-infinity attacks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor x, Tensor grad, Tensor x0, float alpha, float eps) -> Tensor", inplace="x")
def linf_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Signed ascent step, projected on the eps-ball around x0 and on [0, 1].

    `clip(x0 + clip(x + alpha * sign(grad) - x0, -eps, eps), 0, 1)`, the step of FGSM
    (arXiv:1412.6572, section 4), BIM (arXiv:1607.02533, eq. 2) and PGD (arXiv:1706.06083, eq. 2.1).
    A gradient of 0 or NaN moves nothing. No gradient flows through it. In bf16 and fp16 the kernels
    compute in fp32 and round once, so a value may leave the ball by half a unit in the last place.

    Args:
        x: the iterate, any shape, in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        grad: gradient of the loss at x, same shape and dtype.
        x0: the clean image, same shape; dtype of x, or uint8 levels that stand for x0 / 255.
        alpha: step size; a negative one descends (targeted attacks).
        eps: radius of the ball, > 0.

    Returns:
        The next iterate, shape and dtype of x.

    Raises:
        ValueError: shapes differ or eps is not a positive number.
        TypeError: dtypes that do not go together.
    """
    if x0.dtype == torch.uint8:
        x0 = x0.to(x.dtype) / 255
    delta = torch.clamp(x + alpha * torch.sign(grad) - x0, -eps, eps)
    return torch.clamp(x0 + delta, 0, 1)


linf_step.backend("cpp", "torch.ops.deitsec_cpp.linf_step", device="cpu")
linf_step.backend("triton", "deitsec.kernels.linf_step:linf_step", device="cuda")
linf_step.backend("cuda", "torch.ops.deitsec_cuda.linf_step", device="cuda")
assert linf_step.inplace is not None
linf_step_ = linf_step.inplace


@linf_step.check
def _check(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> None:
    if not (x.shape == grad.shape == x0.shape):
        _checks.same_shape("linf_step", x.shape, grad=grad, x0=x0)
    dtype = x.dtype
    if dtype not in _checks.FLOATS or grad.dtype != dtype:
        _checks.floating("linf_step", x=x, grad=grad)
    if x0.dtype != dtype:
        _checks.clean_image("linf_step", x, x0)
    if not 0 < eps < float("inf"):
        _checks.positive("linf_step", eps=eps)


@linf_step.cost
def _cost(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> int:
    return x.numel() * (3 * x.element_size() + x0.element_size())


@linf_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (257,)):
        x0 = make.images(*shape)
        x = (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1)
        yield x, make.normal(*shape), x0, 2 / 255, 8 / 255
        yield x, make.normal(*shape), make.levels(*shape), -2 / 255, 8 / 255
    x0, grad = make.images(4, 3, 9, 9), make.normal(4, 3, 9, 9)
    grad.view(-1)[::5] = 0
    grad.view(-1)[1::5] = 1e-30
    grad.view(-1)[2::5] = float("nan")
    grad.view(-1)[3::10] = float("inf")
    grad.view(-1)[8::10] = -float("inf")
    yield x0.clone(), grad, x0, 0.1, 0.05
    yield x0.transpose(2, 3), grad, x0, 0.1, 0.05
    yield x0.clone(), grad.to(memory_format=torch.channels_last), x0, 0.1, 0.05

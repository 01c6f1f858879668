"""The step of the momentum iterative method."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker
from deitsec.ops.linf_step import linf_step


@op(
    "(Tensor x, Tensor grad, Tensor momentum, Tensor x0, float decay, float alpha, float eps) "
    "-> (Tensor, Tensor)",
    inplace=("x", "momentum"),
)
def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Add the gradient, scaled to L1 norm 1, to the momentum, and step along the momentum's sign.

    `m = decay * momentum + grad / ||grad||_1`, then `linf_step(x, m, x0, alpha, eps)`, the step of
    MI-FGSM (Dong et al., arXiv:1710.06081, algorithm 1). A row whose gradient is 0, or holds a NaN
    or an infinity, adds nothing to its momentum; gradients of any other size count by their
    direction alone. No gradient flows through it. The momentum is fp32 whatever the images are:
    over the 150,528 values of an image a unit is 7e-6 each, for which fp16 has 7 bits left, and
    none for a value that is 300 times smaller.

    Args:
        x: (B, ...) iterate in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        grad: gradient of the loss at x, same shape and dtype.
        momentum: the sum so far, same shape; fp32 (fp64 for fp64 images); zeros at the start.
        x0: the clean image, same shape and dtype.
        decay: factor of the earlier momentum, mu in the paper, >= 0.
        alpha: step size; a negative one descends (targeted attacks).
        eps: radius of the L-infinity ball, > 0.

    Returns:
        The next iterate, in the dtype of x, and the next momentum, in its own.

    Raises:
        ValueError: shapes differ, a row without elements, decay that is negative or not finite, or
            eps that is not a positive number.
        TypeError: dtypes that are not floating or do not go together.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    slope = grad.flatten(1).to(wide)
    # the sum of large gradients is no fp32 number
    largest = slope.abs().amax(1, keepdim=True)
    scaled = slope / largest
    usable = (largest > 0) & (largest < float("inf"))
    unit = torch.where(usable, scaled / scaled.abs().sum(1, keepdim=True), 0)
    total = decay * momentum + unit.reshape(x.shape)
    return linf_step.reference(x, total.sign().to(x.dtype), x0, alpha, eps), total


momentum_step.backend("cpp", "torch.ops.deitsec_cpp.momentum_step", device="cpu")
momentum_step.backend("triton", "deitsec.kernels.momentum_step:momentum_step", device="cuda")
assert momentum_step.inplace is not None
momentum_step_ = momentum_step.inplace


@momentum_step.check
def _check(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> None:
    _checks.same_shape("momentum_step", x.shape, grad=grad, momentum=momentum, x0=x0)
    _checks.floating("momentum_step", x=x, grad=grad, x0=x0)
    _checks.dtype("momentum_step", torch.promote_types(x.dtype, torch.float32), momentum=momentum)
    _checks.rows("momentum_step", x=x)
    if not 0 <= decay < float("inf"):
        raise ValueError(f"momentum_step: decay must be >= 0 and finite, got {decay}")
    _checks.positive("momentum_step", eps=eps)


@momentum_step.cost
def _cost(x: Tensor, grad: Tensor, momentum: Tensor, *rest: Any) -> int:
    return 4 * x.numel() * x.element_size() + 2 * momentum.numel() * momentum.element_size()


@momentum_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    wide = torch.promote_types(make.dtype, torch.float32)
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        x0 = make.images(*shape)
        x = (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1)
        momentum = make.normal(*shape, scale=0.05).to(wide)
        yield x, make.normal(*shape), momentum, x0, 1.0, 2 / 255, 8 / 255
        yield x, make.normal(*shape), torch.zeros_like(momentum), x0, 0.5, -2 / 255, 8 / 255
    x0, momentum = make.images(9, 3, 9, 9), make.normal(9, 3, 9, 9, scale=0.01).to(wide)
    yield x0.clone(), make.hostile_rows(9, 3, 9, 9), momentum, x0, 0.9, 0.1, 0.05
    yield x0.clone(), make.normal(9, 3, 9, 9), momentum, x0, 0.0, 0.1, 0.05
    yield x0.clone(), make.normal(9, 3, 9, 9), 1e-7 * momentum, x0, 0.0, 0.1, 0.05
    strided = make.normal(9, 3, 9, 9).to(memory_format=torch.channels_last)
    yield x0.transpose(2, 3), strided, momentum, x0, 1.0, 0.01, 0.05

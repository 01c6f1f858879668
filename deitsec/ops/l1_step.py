"""The sparse step of the L1 attacks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker
from deitsec.ops.l1_projection import project


@op("(Tensor x, Tensor grad, Tensor x0, Tensor k, float alpha, float eps) -> Tensor", inplace="x")
def l1_step(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> Tensor:
    """Ascent step along the k largest gradients, projected on the L1 ball around x0 in [0, 1].

    The coordinates whose |grad| is at least the row's k-th largest share a step of L1 length alpha,
    `u = sign(grad) where |grad| is among them`, `x + alpha * u / ||u||_1`, and `l1_projection`
    follows: the step of APGD-L1 (Croce & Hein, "Mind the box", arXiv:2103.01208, section 3). Ties
    with the k-th largest move too. A gradient of 0 or NaN never moves, an infinite one is larger
    than the others. No gradient flows through it. In bf16 and fp16 the result is rounded once.

    Args:
        x: (B, ...) iterate in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        grad: gradient of the loss at x, same shape and dtype.
        x0: the clean image, same shape and dtype.
        k: (B,) int64, how many coordinates of each row move, 1 to the row's elements; what lies
            outside counts as the nearer end.
        alpha: L1 length of the step; a negative one descends (targeted attacks).
        eps: radius of the ball, > 0.

    Returns:
        The next iterate, shape and dtype of x.

    Raises:
        ValueError: shapes differ, a row without elements, k of another shape or dtype, alpha that
            is not finite, or eps that is not a positive number.
        TypeError: dtypes that are not floating or differ.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    slope, clean = grad.flatten(1), x0.flatten(1).to(wide)
    size = slope.abs()
    size = torch.where(size.isnan(), 0, size)
    rank = (k - 1).clamp(0, size.shape[1] - 1)
    threshold = size.sort(1, descending=True).values.gather(1, rank[:, None])
    moves = (size >= threshold) & (size > 0)
    share = alpha / moves.sum(1, keepdim=True).clamp_min(1).to(wide)
    delta = (x.flatten(1).to(wide) - clean) + torch.where(moves, slope.sign().to(wide) * share, 0)
    return project(delta, clean, eps).to(x.dtype).reshape(x.shape)


l1_step.backend("cpp", "torch.ops.deitsec_cpp.l1_step", device="cpu")
l1_step.backend("triton", "deitsec.kernels.l1_step:l1_step", device="cuda")
assert l1_step.inplace is not None
l1_step_ = l1_step.inplace


@l1_step.check
def _check(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> None:
    _checks.same_shape("l1_step", x.shape, grad=grad, x0=x0)
    _checks.floating("l1_step", x=x, grad=grad, x0=x0)
    _checks.rows("l1_step", x=x)
    if k.dtype != torch.int64 or k.shape != (x.shape[0],):
        raise ValueError(
            f"l1_step: k must be ({x.shape[0]},) torch.int64, got {tuple(k.shape)} {k.dtype}"
        )
    _checks.finite("l1_step", alpha=alpha)
    _checks.positive("l1_step", eps=eps)


@l1_step.cost
def _cost(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> int:
    return 4 * x.numel() * x.element_size()


@l1_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        x0 = make.images(*shape)
        x = (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1)
        elements = x0[0].numel() if shape[0] else 1
        k = make.labels(shape[0], elements) + 1
        yield x, make.normal(*shape), x0, k, 1.0, 6.0
        yield x0.clone(), make.normal(*shape), x0, (k + 9) // 10, -3.0, 2.0
    x0, k = make.images(9, 3, 9, 9), torch.full((9,), 5)
    yield x0.clone(), make.hostile_rows(9, 3, 9, 9), x0, k, 2.0, 1.5
    tied = make.normal(9, 3, 9, 9).round()
    yield x0.clone(), tied, x0, torch.tensor([1, 2, 3, 50, 100, 200, 243, 0, 1000]), 4.0, 3.0
    strided = make.normal(9, 3, 9, 9).to(memory_format=torch.channels_last)
    yield x0.transpose(2, 3), strided, x0, k, 1.0, 2.0

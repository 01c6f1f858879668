"""The L-infinity step of APGD, with what it keeps of the best iterate, in one pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op(
    "(Tensor x_old, Tensor x, Tensor x_best, Tensor grad_best, Tensor grad, Tensor x0, "
    "Tensor better, Tensor restart, Tensor step, float share, float eps) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    inplace=("x_old", "x", "x_best", "grad_best"),
)
def apgd_step(
    x_old: Tensor,
    x: Tensor,
    x_best: Tensor,
    grad_best: Tensor,
    grad: Tensor,
    x0: Tensor,
    better: Tensor,
    restart: Tensor,
    step: Tensor,
    share: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the best rows, go back to them where asked, and take APGD's step with momentum.

    With `P(v) = clip(x0 + clip(v - x0, -eps, eps), 0, 1)`, row by row (Croce and Hein,
    arXiv:2003.01690, algorithm 1): x and its gradient become the best where `better`; the best and
    its gradient take the place of x and grad where `restart`; then

        z = P(x + step * sign(grad)),  next = P(x + share * (z - x) + (1 - share) * (x - x_old)).

    A gradient of 0 or NaN moves nothing. No gradient flows through it. In bf16 and fp16 it is
    computed in fp32 and rounded once. `apgd_step_` writes `next` into x_old and leaves in x the
    iterate that it was taken from: the caller swaps the two. Of x_best and grad_best it touches
    only the rows that are better.

    Args:
        x_old: (B, ...) the iterate before x; fp32, bf16, fp16 (fp64 by the reference).
        x: the iterate, in [0, 1], same shape and dtype.
        x_best: the iterate of highest loss so far, same shape and dtype.
        grad_best: its gradient, same shape and dtype.
        grad: gradient of the loss at x, same shape and dtype.
        x0: the clean image, same shape and dtype.
        better: (B,) bool, the loss at x is the highest so far.
        restart: (B,) bool, the step starts from the best iterate.
        step: (B,) fp32 (fp64 for fp64 rows), step sizes; a negative one descends.
        share: weight of the gradient step against the momentum, 0.75 in the paper and 1 in the
            first step.
        eps: radius of the L-infinity ball, > 0.

    Returns:
        The next iterate, the one that it was taken from, x_best and grad_best.

    Raises:
        ValueError: shapes that differ, or eps that is not a positive number.
        TypeError: dtypes that do not go together.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = (-1, *(1,) * (x.ndim - 1))
    takes, returns = better.view(rows), restart.view(rows)
    x_best, grad_best = torch.where(takes, x, x_best), torch.where(takes, grad, grad_best)
    origin, slope = torch.where(returns, x_best, x), torch.where(returns, grad_best, grad)
    start, clean = origin.to(wide), x0.to(wide)

    def project(values: Tensor) -> Tensor:
        return torch.clamp(clean + torch.clamp(values - clean, -eps, eps), 0, 1)

    z = project(start + step.view(rows) * torch.sign(slope).to(wide))
    ahead = start + (z - start) * share + (start - x_old.to(wide)) * (1 - share)
    return project(ahead).to(x.dtype), origin, x_best, grad_best


apgd_step.backend("cpp", "torch.ops.deitsec_cpp.apgd_step", device="cpu")
apgd_step.backend("triton", "deitsec.kernels.apgd_step:apgd_step", device="cuda")
assert apgd_step.inplace is not None
apgd_step_ = apgd_step.inplace


@apgd_step.check
def _check(
    x_old: Tensor,
    x: Tensor,
    x_best: Tensor,
    grad_best: Tensor,
    grad: Tensor,
    x0: Tensor,
    better: Tensor,
    restart: Tensor,
    step: Tensor,
    share: float,
    eps: float,
) -> None:
    images = {"x": x, "x_best": x_best, "grad_best": grad_best, "grad": grad, "x0": x0}
    _checks.same_shape("apgd_step", x_old.shape, **images)
    _checks.floating("apgd_step", x_old=x_old, **images)
    _checks.rows("apgd_step", x=x)
    flags = {"better": better, "restart": restart}
    _checks.same_shape("apgd_step", x.shape[:1], **flags, step=step)
    _checks.dtype("apgd_step", torch.bool, **flags)
    _checks.dtype("apgd_step", torch.promote_types(x.dtype, torch.float32), step=step)
    _checks.finite("apgd_step", share=share)
    _checks.positive("apgd_step", eps=eps)


@apgd_step.cost
def _cost(x_old: Tensor, *rest: Any) -> int:
    # of most steps, in which no row is better and none starts again
    return 5 * x_old.numel() * x_old.element_size()


@apgd_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (4, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        for share in (0.75, 1.0):
            yield *_rows(make, make.normal(*shape)), share, 8 / 255
    hostile = list(_rows(make, make.hostile_rows(9, 3, 9, 9)))
    hostile[6] = torch.zeros_like(hostile[6])  # or a NaN would be kept, and be unlike itself
    yield *hostile, 0.75, 0.05
    for every in (True, False):
        same = list(_rows(make, make.normal(4, 3, 9, 9)))
        same[6] = same[7] = torch.full_like(same[6], every)
        yield *same, 0.75, 0.3
    yield *_rows(make, make.normal(4, 3, 9, 9).to(memory_format=torch.channels_last)), 0.75, 0.05
    strided = _rows(make, make.normal(4, 3, 9, 9))
    yield strided[0].transpose(2, 3), *strided[1:], 0.75, 0.05


def _rows(make: SampleMaker, grad: Tensor) -> tuple[Tensor, ...]:
    """Everything but share and eps, every case of the two flags among the first four rows."""
    shape, rows = grad.shape, grad.shape[0]
    x0 = make.images(*shape)
    x_old, x, x_best = ((x0 + make.normal(*shape, scale=0.02)).clamp(0, 1) for _ in range(3))
    number = torch.arange(rows, device=x0.device)
    real = torch.promote_types(make.dtype, torch.float32)
    step = 0.06 * 0.5 ** (number % 3).to(real) * (1 - 2 * (number % 2))
    better, restart = number % 2 == 1, number // 2 % 2 == 1
    return x_old, x, x_best, make.normal(*shape), grad, x0, better, restart, step

"""The L-infinity step of APGD: one pass, four reads and one write an element in most steps."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .linf_step import clamp

# 8 elements a thread: 16-byte accesses in every dtype
_CHUNK, _NUM_WARPS = 1024, 4


@triton.jit
def _project(values, clean, eps):
    return clamp(clean + clamp(values - clean, -eps, eps), 0.0, 1.0)


@triton.jit
def _apgd_step_kernel(
    x_old,
    x,
    x_best,
    grad_best,
    grad,
    x0,
    better,
    restart,
    step,
    elements,
    share,
    rest,
    eps,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    within = tl.program_id(1).to(tl.int64) * chunk + tl.arange(0, chunk)
    inside = within < elements
    offsets = row * elements + within
    takes = tl.load(better + row).to(tl.int32) != 0
    returns = tl.load(restart + row).to(tl.int32) != 0
    size = tl.load(step + row)

    here = tl.load(x + offsets, mask=inside, other=0.0)
    slope = tl.load(grad + offsets, mask=inside, other=0.0)
    taken = within < tl.where(takes, elements, 0)
    tl.store(x_best + offsets, here, mask=taken)
    tl.store(grad_best + offsets, slope, mask=taken)
    # what is better is the best already; most rows neither return nor read this
    elsewhere = within < tl.where(returns & ~takes, elements, 0)
    best = tl.load(x_best + offsets, mask=elsewhere, other=0.0)
    best_slope = tl.load(grad_best + offsets, mask=elsewhere, other=0.0)
    here = tl.where(elsewhere, best, here)
    slope = tl.where(elsewhere, best_slope, slope).to(tl.float32)
    tl.store(x + offsets, here, mask=elsewhere)

    start = here.to(tl.float32)
    clean = tl.load(x0 + offsets, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(x_old + offsets, mask=inside, other=0.0).to(tl.float32)
    sign = tl.where(slope > 0, 1.0, tl.where(slope < 0, -1.0, 0.0))  # 0 for NaN
    z = _project(start + size * sign, clean, eps)
    ahead = (start + (z - start) * share) + (start - before) * rest
    tl.store(x_old + offsets, _project(ahead, clean, eps), mask=inside)


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
    """The next iterate, the one it was taken from, the best one and its gradient.

    Bitwise the reference's in fp32; in bf16 and fp16 computed in fp32 and rounded once.
    """
    changed = x_old.clone(), x.clone(), x_best.clone(), grad_best.clone()
    apgd_step_(*changed, grad, x0, better, restart, step, share, eps)
    return changed


def apgd_step_(
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
    """`apgd_step` written into the first four."""
    if x.numel() == 0:
        return
    rows = x.shape[0]
    elements = x.numel() // rows
    with torch.cuda.device_of(x):
        _apgd_step_kernel[(rows, triton.cdiv(elements, _CHUNK))](
            x_old,
            x,
            x_best,
            grad_best,
            grad,
            x0,
            better,
            restart,
            step,
            elements,
            float(share),
            float(1.0 - share),
            float(eps),
            chunk=_CHUNK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )

"""The signed L-infinity step: one pass, three reads and one write an element."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# 8 elements a thread: 16-byte accesses in every dtype, and six of them in flight in fp32
_BLOCK, _NUM_WARPS = 1024, 4


@triton.jit
def _linf_step_kernel(x, grad, x0, out, elements, alpha, eps, block: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = offsets < elements
    iterate = tl.load(x + offsets, mask=inside).to(tl.float32)
    slope = tl.load(grad + offsets, mask=inside).to(tl.float32)
    clean = tl.load(x0 + offsets, mask=inside)
    if clean.dtype == tl.uint8:
        clean = tl.div_rn(clean.to(tl.float32), 255.0)
    else:
        clean = clean.to(tl.float32)
    sign = tl.where(slope > 0, 1.0, tl.where(slope < 0, -1.0, 0.0))  # 0 for NaN
    delta = clamp(iterate + alpha * sign - clean, -eps, eps)
    tl.store(out + offsets, clamp(clean + delta, 0.0, 1.0), mask=inside)


@triton.jit
def clamp(values, low, high):
    """Values held between two bounds; a NaN stays one."""
    raised = tl.maximum(values, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(raised, high, propagate_nan=tl.PropagateNan.ALL)


def linf_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Signed ascent step, projected on the eps-ball around x0 and on [0, 1].

    Bitwise the reference's in fp32; in bf16 and fp16 computed in fp32 and rounded once.
    """
    out = torch.empty_like(x)
    _launch(x, grad, x0, out, alpha, eps)
    return out


def linf_step_(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> None:
    """`linf_step` written into x."""
    _launch(x, grad, x0, x, alpha, eps)


def _launch(x: Tensor, grad: Tensor, x0: Tensor, out: Tensor, alpha: float, eps: float) -> None:
    if x.numel() == 0:
        return
    with torch.cuda.device_of(x):
        _linf_step_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
            x,
            grad,
            x0,
            out,
            x.numel(),
            float(alpha),
            float(eps),
            block=_BLOCK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )

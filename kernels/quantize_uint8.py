"""Rounding to 8 bits inside the ball."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# 16 elements a thread: 16-byte accesses of the uint8 levels too
_BLOCK, _NUM_WARPS = 2048, 4

# Adding and subtracting 1.5 * 2**23 leaves an fp32 below 2**22 rounded to nearest even.
_ROUND = tl.constexpr(12582912.0)


@triton.jit(do_not_specialize=["levels"])
def _quantize_uint8_kernel(adv, clean, out, elements, levels, block: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = offsets < elements
    wide = tl.load(adv + offsets, mask=inside).to(tl.float32)
    base = tl.load(clean + offsets, mask=inside).to(tl.int32)
    scaled = tl.where(wide != wide, base.to(tl.float32), wide * 255.0)
    bounded = tl.minimum(tl.maximum(scaled, -1.0), 256.0)
    nearest = ((bounded + _ROUND) - _ROUND).to(tl.int32)
    low = tl.maximum(base - levels, 0)
    high = tl.minimum(base + levels, 255)
    level = tl.minimum(tl.maximum(nearest, low), high)
    tl.store(out + offsets, level.to(tl.uint8), mask=inside)


def quantize_uint8(adv: Tensor, clean: Tensor, levels: int) -> Tensor:
    """Nearest of the 256 levels within `levels` of the clean one; equal to the reference's."""
    out = torch.empty_like(clean)
    if adv.numel() == 0:
        return out
    with torch.cuda.device_of(adv):
        _quantize_uint8_kernel[(triton.cdiv(adv.numel(), _BLOCK),)](
            adv,
            clean,
            out,
            adv.numel(),
            levels,
            block=_BLOCK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
    return out

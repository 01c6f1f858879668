"""The proposal of Square in L-infinity: each program copies a part of a plane, and its window."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# 8 elements a thread
_BLOCK, _NUM_WARPS = 1024, 4


@triton.jit(do_not_specialize=["size", "seed_low", "seed_high", "stream"])
def _square_window_kernel(
    x,
    x0,
    sample_ids,
    step,
    out,
    channels,
    elements,
    width,
    size,
    eps,
    seed_low,
    seed_high,
    stream,
    block: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64)
    row, channel = plane // channels, plane % channels
    sample = tl.load(sample_ids + row)
    word0, word1, word2, word3 = tl.philox_impl(
        (tl.load(step + row) & 0xFFFFFFFF).to(tl.uint32),
        (sample & 0xFFFFFFFF).to(tl.uint32),
        ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32),
        stream.to(tl.uint32),
        seed_low.to(tl.uint32),
        seed_high.to(tl.uint32),
    )
    top = (word0.to(tl.int64) * (elements // width - size + 1)) >> 32
    left = (word1.to(tl.int64) * (width - size + 1)) >> 32
    signs = word2.to(tl.int64) | (word3.to(tl.int64) << 32)
    move = tl.where((signs >> channel) & 1 == 1, eps, -eps)

    start = tl.program_id(1) * block
    within = start + tl.arange(0, block)
    inside = within < elements
    offsets = plane * elements + within
    value = tl.load(x + offsets, mask=inside)
    line, column = within // width, within % width
    window = (line >= top) & (line < top + size) & (column >= left) & (column < left + size)
    if (start < (top + size) * width) & (start + block > top * width):
        clean = tl.load(x0 + offsets, mask=inside).to(tl.float32)
        raised = tl.maximum(clean + move, 0.0, propagate_nan=tl.PropagateNan.ALL)
        moved = tl.minimum(raised, 1.0, propagate_nan=tl.PropagateNan.ALL)
        value = tl.where(window, moved.to(value.dtype), value)
    tl.store(out + offsets, value, mask=inside)


def square_window(
    x: Tensor,
    x0: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    size: int,
    eps: float,
    seed: int,
    stream: int = 0,
) -> Tensor:
    """A window of each row moved to x0 + eps or x0 - eps; draws and result are the reference's."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    rows, channels, height, width = x.shape
    with torch.cuda.device_of(x):
        _square_window_kernel[(rows * channels, triton.cdiv(height * width, _BLOCK))](
            x,
            x0,
            sample_ids,
            step,
            out,
            channels,
            height * width,
            width,
            size,
            float(eps),
            _as_int32(seed),
            _as_int32(seed >> 32),
            _as_int32(stream),
            block=_BLOCK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
    return out


def _as_int32(value: int) -> int:
    """The low 32 bits as a signed number, so that the argument has one type: i32."""
    return ((value + 2**31) & 0xFFFFFFFF) - 2**31

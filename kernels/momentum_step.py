"""The momentum step: the gradient's L1 norm over chunks of a row, then momentum and iterate."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .linf_step import clamp
from .row_scale import direction, scaled_norm, scaled_part

# 16 elements of each operand a thread
_CHUNK, _NUM_WARPS = 4096, 8


@triton.jit
def _gradient_size_kernel(grad, largest, sizes, elements, num_chunks, chunk: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    within = index * chunk + tl.arange(0, chunk)
    slope = tl.load(grad + row * elements + within, mask=within < elements, other=0.0)
    peak, scaled = scaled_part(slope.to(tl.float32))
    tl.store(largest + row * num_chunks + index, peak)
    tl.store(sizes + row * num_chunks + index, tl.sum(scaled, 0))


@triton.jit
def _momentum_step_kernel(
    x,
    grad,
    momentum,
    x0,
    out,
    total,
    largest,
    sizes,
    elements,
    num_chunks,
    decay,
    alpha,
    eps,
    block: tl.constexpr,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, block)
    scale, norm, usable = scaled_norm(
        largest, sizes, row * num_chunks + slots, slots < num_chunks, False
    )
    within = tl.program_id(1) * chunk + tl.arange(0, chunk)
    inside = within < elements
    offsets = row * elements + within
    slope = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32)
    earlier = tl.load(momentum + offsets, mask=inside, other=0.0)
    sum = decay * earlier + direction(slope, scale, norm, usable)
    tl.store(total + offsets, sum, mask=inside)
    iterate = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    clean = tl.load(x0 + offsets, mask=inside, other=0.0).to(tl.float32)
    sign = tl.where(sum > 0, 1.0, tl.where(sum < 0, -1.0, 0.0))
    delta = clamp(iterate + alpha * sign - clean, -eps, eps)
    tl.store(out + offsets, clamp(clean + delta, 0.0, 1.0), mask=inside)


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The next iterate and the next momentum; computed in fp32, deterministic."""
    out, total = torch.empty_like(x), torch.empty_like(momentum)
    _launch(x, grad, momentum, x0, out, total, decay, alpha, eps)
    return out, total


def momentum_step_(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> None:
    """`momentum_step` written into x and momentum."""
    _launch(x, grad, momentum, x0, x, momentum, decay, alpha, eps)


def _launch(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    out: Tensor,
    total: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> None:
    if x.numel() == 0:
        return
    rows = x.shape[0]
    elements = x.numel() // rows
    num_chunks = triton.cdiv(elements, _CHUNK)
    largest, sizes = x.new_empty(2, rows, num_chunks, dtype=torch.float32).unbind()
    grid = (rows, num_chunks)
    options = {"chunk": _CHUNK, "num_warps": _NUM_WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(x):
        _gradient_size_kernel[grid](grad, largest, sizes, elements, num_chunks, **options)
        _momentum_step_kernel[grid](
            x,
            grad,
            momentum,
            x0,
            out,
            total,
            largest,
            sizes,
            elements,
            num_chunks,
            float(decay),
            float(alpha),
            float(eps),
            block=triton.next_power_of_2(num_chunks),
            **options,
        )

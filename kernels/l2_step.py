"""The normalised L2 step: the gradient's norm, the perturbation's norm, then the step.

Rows are cut into chunks of a fixed length, so that a few large rows fill the device and a row does
not depend on the rows beside it. Each program adds up the chunks of its row by itself.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .row_scale import direction, scaled_norm, scaled_part

# 16 elements of each operand a thread
_CHUNK, _NUM_WARPS = 4096, 8


@triton.jit
def _gradient_norm_kernel(grad, largest, squares, elements, num_chunks, chunk: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    within = index * chunk + tl.arange(0, chunk)
    slope = tl.load(grad + row * elements + within, mask=within < elements, other=0.0)
    peak, scaled = scaled_part(slope.to(tl.float32))
    tl.store(largest + row * num_chunks + index, peak)
    tl.store(squares + row * num_chunks + index, tl.sum(scaled * scaled, 0))


@triton.jit
def _moved_norm_kernel(
    x,
    grad,
    x0,
    largest,
    squares,
    moved,
    elements,
    num_chunks,
    alpha,
    block: tl.constexpr,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    slots = tl.arange(0, block)
    scale, norm, usable = scaled_norm(
        largest, squares, row * num_chunks + slots, slots < num_chunks, True
    )
    within = index * chunk + tl.arange(0, chunk)
    offsets = row * elements + within
    delta, _ = _move(x, grad, x0, offsets, within < elements, scale, norm, usable, alpha)
    tl.store(moved + row * num_chunks + index, tl.sum(delta * delta, 0))


@triton.jit
def _l2_step_kernel(
    x,
    grad,
    x0,
    out,
    largest,
    squares,
    moved,
    elements,
    num_chunks,
    alpha,
    eps,
    block: tl.constexpr,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    slots = tl.arange(0, block)
    known = slots < num_chunks
    scale, norm, usable = scaled_norm(largest, squares, row * num_chunks + slots, known, True)
    length = tl.load(moved + row * num_chunks + slots, mask=known, other=0.0)
    length = tl.sqrt_rn(tl.sum(length, 0))
    shrink = tl.where(length > eps, tl.div_rn(eps, tl.where(length > eps, length, 1.0)), 1.0)
    within = index * chunk + tl.arange(0, chunk)
    inside = within < elements
    offsets = row * elements + within
    delta, clean = _move(x, grad, x0, offsets, inside, scale, norm, usable, alpha)
    raised = tl.maximum(clean + delta * shrink, 0.0, propagate_nan=tl.PropagateNan.ALL)
    clipped = tl.minimum(raised, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + offsets, clipped, mask=inside)


@triton.jit
def _move(x, grad, x0, offsets, inside, scale, norm, usable, alpha):
    """The perturbation after the step, and the clean image."""
    iterate = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32)
    clean = tl.load(x0 + offsets, mask=inside, other=0.0).to(tl.float32)
    return (iterate - clean) + alpha * direction(slope, scale, norm, usable), clean


def l2_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Ascent step of length alpha, projected on the L2 ball around x0, then on [0, 1].

    Computed in fp32 and rounded once; deterministic.
    """
    out = torch.empty_like(x)
    _launch(x, grad, x0, out, alpha, eps)
    return out


def l2_step_(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> None:
    """`l2_step` written into x."""
    _launch(x, grad, x0, x, alpha, eps)


def _launch(x: Tensor, grad: Tensor, x0: Tensor, out: Tensor, alpha: float, eps: float) -> None:
    if x.numel() == 0:
        return
    rows = x.shape[0]
    elements = x.numel() // rows
    num_chunks = triton.cdiv(elements, _CHUNK)
    parts = x.new_empty(3, rows, num_chunks, dtype=torch.float32)
    largest, squares, moved = parts.unbind()
    grid = (rows, num_chunks)
    # left to itself ptxas gives 48 registers to some of these, and spills one to do so
    options = {
        "chunk": _CHUNK,
        "num_warps": _NUM_WARPS,
        "maxnreg": 128,
        "enable_fp_fusion": False,
    }
    block = triton.next_power_of_2(num_chunks)
    with torch.cuda.device_of(x):
        _gradient_norm_kernel[grid](grad, largest, squares, elements, num_chunks, **options)
        _moved_norm_kernel[grid](
            x,
            grad,
            x0,
            largest,
            squares,
            moved,
            elements,
            num_chunks,
            float(alpha),
            block=block,
            **options,
        )
        _l2_step_kernel[grid](
            x,
            grad,
            x0,
            out,
            largest,
            squares,
            moved,
            elements,
            num_chunks,
            float(alpha),
            float(eps),
            block=block,
            **options,
        )

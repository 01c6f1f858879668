"""The sparse L1 step: the k-th largest gradient by a radix select, the move and the projection.

A program a row: it sweeps the gradient four times, once for each byte of the magnitude's bits.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .l1_ball import options_for, project_row, rank_of


@triton.jit
def _l1_step_kernel(x, grad, x0, k, out, elements, alpha, eps, chunk: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = row * elements
    wanted = tl.minimum(tl.maximum(tl.load(k + row), 1), elements).to(tl.int32)
    least, count = _select(grad, start, elements, wanted, chunk)
    share = tl.div_rn(alpha, tl.maximum(count, 1).to(tl.float32))
    project_row(x, grad, x0, out, start, elements, least, share, eps, chunk)


@triton.jit
def _select(grad, start, elements, wanted, chunk: tl.constexpr):
    """Rank of the k-th largest magnitude, at least 1, and how many are of that rank or above."""
    found = wanted * 0
    above = wanted * 0
    held = wanted * 0
    for level in range(4):
        shift = 24 - 8 * level
        counts = _byte_counts(grad, start, elements, found, shift, chunk)
        byte = tl.arange(0, 256)
        at_least = tl.cumsum(counts, 0, reverse=True)
        best = tl.sum((at_least >= wanted).to(tl.int32), 0) - 1
        higher = tl.sum(tl.where(byte > best, counts, 0), 0)
        held = tl.sum(tl.where(byte == best, counts, 0), 0)
        wanted -= higher
        above += higher
        found |= best << shift
    # a gradient of 0 never moves
    return tl.maximum(found, 1), above + tl.where(found > 0, held, 0)


@triton.jit
def _byte_counts(grad, start, elements, found, shift, chunk: tl.constexpr):
    """Histogram of the byte at shift, over the ranks whose higher bytes are those found."""
    counts = tl.zeros([256], tl.int32)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        inside = within < elements
        rank = rank_of(tl.load(grad + start + within, mask=inside, other=0.0).to(tl.float32))
        # two shifts: one of 32 bits is not defined
        alike = inside & ((rank >> shift) >> 8 == (found >> shift) >> 8)
        counts += tl.histogram((rank >> shift) & 255, 256, mask=alike)
    return counts


def l1_step(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> Tensor:
    """Ascent step along the k largest gradients, projected on the L1 ball within [0, 1].

    Computed in fp32 and rounded once; deterministic.
    """
    out = torch.empty_like(x)
    _launch(x, grad, x0, k, out, alpha, eps)
    return out


def l1_step_(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> None:
    """`l1_step` written into x."""
    _launch(x, grad, x0, k, x, alpha, eps)


def _launch(
    x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, out: Tensor, alpha: float, eps: float
) -> None:
    if x.numel() == 0:
        return
    rows = x.shape[0]
    elements = x.numel() // rows
    with torch.cuda.device_of(x):
        _l1_step_kernel[(rows,)](
            x, grad, x0, k, out, elements, float(alpha), float(eps), **options_for(elements)
        )

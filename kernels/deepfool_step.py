"""The step across the nearest linearised boundary, a program a row.

It sweeps each slope once for its norm, in fp64 since squares of fp32 numbers may be none, and the
nearest one a second time.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .box_plane import options_for


@triton.jit
def _deepfool_step_kernel(
    total,
    x0,
    slopes,
    values,
    held,
    out,
    image,
    elements,
    reach,
    further,
    planes: tl.constexpr,
    linf: tl.constexpr,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = row * elements
    least = tl.full((), float("inf"), tl.float64)
    length = tl.full((), 1.0, tl.float64)
    nearest = row * 0
    for j in range(planes):
        size = _dual_norm(slopes, (row * planes + j) * elements, elements, linf, chunk)
        usable = (size > 0) & (size < float("inf"))
        value = tl.abs(tl.load(values + row * planes + j).to(tl.float64))
        distance = value / tl.where(usable, size, 1.0)
        nearer = usable & (distance < least)
        least = tl.where(nearer, distance, least)
        length = tl.where(nearer, size, length)
        nearest = tl.where(nearer, j, nearest)
    moves = (least < float("inf")) & (tl.load(held + row) == 0)
    step = tl.where(moves, least + further, 0.0)
    for offset in range(0, elements, chunk):
        within = offset + tl.arange(0, chunk)
        inside = within < elements
        slope = tl.load(slopes + (row * planes + nearest) * elements + within, inside, other=0.0)
        slope = slope.to(tl.float64)
        sign = tl.where(slope > 0, 1.0, tl.where(slope < 0, -1.0, 0.0))
        unit = sign if linf else slope / length
        before = tl.load(total + start + within, inside, other=0.0).to(tl.float64)
        # through fp32, as everywhere: rounded to a half once more
        kept = before + tl.where(moves, step * unit, 0.0)
        kept = kept.to(tl.float32).to(out.dtype.element_ty)
        tl.store(out + start + within, kept, inside)
        clean = tl.load(x0 + start + within, inside, other=0.0).to(tl.float64)
        moved = tl.minimum(tl.maximum(clean + reach * kept.to(tl.float64), 0.0), 1.0)
        tl.store(image + start + within, moved.to(tl.float32), inside)


@triton.jit
def _dual_norm(slopes, first, elements, linf: tl.constexpr, chunk: tl.constexpr):
    """L1 norm of a slope for L-infinity, its L2 norm for L2."""
    sums = tl.zeros([chunk], tl.float64)
    for offset in range(0, elements, chunk):
        within = offset + tl.arange(0, chunk)
        slope = tl.load(slopes + first + within, within < elements, other=0.0).to(tl.float64)
        sums += tl.abs(slope) if linf else slope * slope
    total = tl.sum(sums, 0)
    return total if linf else tl.sqrt(total)


def deepfool_step(
    total: Tensor,
    x0: Tensor,
    slopes: Tensor,
    values: Tensor,
    held: Tensor,
    overshoot: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Step across the nearest plane; computed in fp32, deterministic."""
    out, image = torch.empty_like(total), torch.empty_like(x0)
    if total.numel() == 0:
        return out, image
    rows = total.shape[0]
    elements = total.numel() // rows
    with torch.cuda.device_of(total):
        _deepfool_step_kernel[(rows,)](
            total,
            x0,
            slopes,
            values,
            held,
            out,
            image,
            elements,
            1.0 + overshoot,
            1e-4,
            planes=values.shape[1],
            linf=math.isinf(p),
            **options_for(elements),
        )
    return out, image

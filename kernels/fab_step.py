"""The step of FAB: both projections on the plane, their norms and the mix: a program a row."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .box_plane import amount, find_move, load_entry, measure, options_for, order_of

_LEAST_NORM = tl.constexpr(1e-8)


@triton.jit
def _fab_step_kernel(
    x,
    x0,
    slope,
    value,
    out,
    elements,
    eta,
    alpha_max,
    order: tl.constexpr,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = row * elements
    here = tl.load(value + row).to(tl.float64)
    there = here + _change(x, x0, slope, at, elements, chunk)
    full, usable = measure(x, slope, at, elements, here, chunk)
    full0, usable0 = measure(x0, slope, at, elements, there, chunk)
    usable = usable & usable0
    here, there = tl.where(usable, here, 0.0), tl.where(usable, there, 0.0)
    reach, rank, share = find_move(x, slope, at, elements, here, full, order, chunk)
    reach0, rank0, share0 = find_move(x0, slope, at, elements, there, full0, order, chunk)
    norm = _norm(x, slope, at, elements, here, reach, rank, share, order, chunk)
    norm0 = _norm(x0, slope, at, elements, there, reach0, rank0, share0, order, chunk)
    alpha = tl.minimum(norm / (norm + norm0), alpha_max)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        inside = within < elements
        point = tl.load(x + at + within, mask=inside, other=0.0).to(tl.float64)
        clean = tl.load(x0 + at + within, mask=inside, other=0.0).to(tl.float64)
        size, room, way = load_entry(x, slope, at, within, elements, here > 0)
        near = point + eta * (way * amount(size, room, reach, rank, share, order))
        size, room, way = load_entry(x0, slope, at, within, elements, there > 0)
        far = clean + eta * (way * amount(size, room, reach0, rank0, share0, order))
        mixed = tl.minimum(tl.maximum(near * (1.0 - alpha) + far * alpha, 0.0), 1.0)
        mixed = tl.where(usable, mixed, point)
        tl.store(out + at + within, mixed.to(tl.float32), mask=inside)


@triton.jit
def _change(x, x0, slope, at, elements, chunk: tl.constexpr):
    """slope . (x0 - x)"""
    sums = tl.zeros([chunk], tl.float64)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        inside = within < elements
        along = tl.load(slope + at + within, mask=inside, other=0.0).to(tl.float64)
        point = tl.load(x + at + within, mask=inside, other=0.0).to(tl.float64)
        sums += along * (tl.load(x0 + at + within, mask=inside, other=0.0).to(tl.float64) - point)
    return tl.sum(sums, 0)


@triton.jit
def _norm(
    x, slope, at, elements, value, reach, rank, share, order: tl.constexpr, chunk: tl.constexpr
):
    """Length of the move."""
    sums = tl.zeros([chunk], tl.float64)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        size, room, _ = load_entry(x, slope, at, within, elements, value > 0)
        move = amount(size, room, reach, rank, share, order)
        if order == 0:
            sums = tl.maximum(sums, move)
        elif order == 2:
            sums += move * move
        else:
            sums += move
    if order == 0:
        length = tl.max(sums, 0)
    elif order == 2:
        length = tl.sqrt(tl.sum(sums, 0))
    else:
        length = tl.sum(sums, 0)
    return tl.maximum(length, _LEAST_NORM)


def fab_step(
    x: Tensor,
    x0: Tensor,
    slope: Tensor,
    value: Tensor,
    eta: float,
    alpha_max: float,
    p: float,
) -> Tensor:
    """Step towards the plane, drawn to the clean image; sums in fp64, deterministic."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    rows = x.shape[0]
    elements = x.numel() // rows
    with torch.cuda.device_of(x):
        _fab_step_kernel[(rows,)](
            x,
            x0,
            slope,
            value,
            out,
            elements,
            float(eta),
            float(alpha_max),
            order=order_of(p),
            **options_for(elements),
        )
    return out

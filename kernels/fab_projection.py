"""The smallest move to a hyperplane within [0, 1]: a program a row."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .box_plane import amount, find_move, load_entry, measure, options_for, order_of


@triton.jit
def _fab_projection_kernel(
    x, slope, value, out, elements, order: tl.constexpr, chunk: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = row * elements
    here = tl.load(value + row).to(tl.float64)
    full, usable = measure(x, slope, at, elements, here, chunk)
    here = tl.where(usable, here, 0.0)
    reach, rank, share = find_move(x, slope, at, elements, here, full, order, chunk)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        size, room, way = load_entry(x, slope, at, within, elements, here > 0)
        move = tl.where(usable, way * amount(size, room, reach, rank, share, order), 0.0)
        tl.store(out + at + within, move.to(tl.float32), mask=within < elements)


def fab_projection(x: Tensor, slope: Tensor, value: Tensor, p: float) -> Tensor:
    """The move to the nearest point of the plane; sums in fp64, deterministic."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    rows = x.shape[0]
    elements = x.numel() // rows
    with torch.cuda.device_of(x):
        _fab_projection_kernel[(rows,)](
            x, slope, value, out, elements, order=order_of(p), **options_for(elements)
        )
    return out

"""The best row so far: one kernel decides for every row, another copies those that are better.

Two, because every program of a long row needs the old score and one of them replaces it.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _ROW_WARPS = 128, 4
# 16 elements a thread
_CHUNK, _NUM_WARPS = 4096, 8


@triton.jit(do_not_specialize=["num_rows"])
def _decide_kernel(
    best_success,
    best_score,
    success,
    score,
    out_success,
    out_score,
    better,
    num_rows,
    keep_first: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = row < num_rows
    was = tl.load(best_success + row, mask=inside, other=0) != 0
    now = tl.load(success + row, mask=inside, other=0) != 0
    old = tl.load(best_score + row, mask=inside, other=0.0)
    value = tl.load(score + row, mask=inside, other=0.0)
    higher = value > old
    if keep_first:
        higher = higher & (now == 0)
    takes = ((now & (was == 0)) | ((now == was) & higher)) & (value == value)
    tl.store(out_success + row, was | (now & takes), mask=inside)
    tl.store(out_score + row, tl.where(takes, value, old), mask=inside)
    tl.store(better + row, takes, mask=inside)


@triton.jit(do_not_specialize=["num_chunks"])
def _copy_rows_kernel(best, x, out, better, elements, num_chunks, chunk: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row = program // num_chunks
    within = (program % num_chunks) * chunk + tl.arange(0, chunk)
    inside = within < elements
    offsets = row * elements + within
    if tl.load(better + row) != 0:
        tl.store(out + offsets, tl.load(x + offsets, mask=inside), mask=inside)
    elif best is not None:
        tl.store(out + offsets, tl.load(best + offsets, mask=inside), mask=inside)


def track_best(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of x where they are better than best, by success and then by score."""
    outputs = torch.empty_like(best), torch.empty_like(success), torch.empty_like(score)
    offered = (x, success, score)
    return *outputs, _launch((best, best_success, best_score), offered, outputs, keep_first)


def track_best_(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> Tensor:
    """`track_best` written into its first three arguments; touches only the better rows."""
    kept = (best, best_success, best_score)
    return _launch(kept, (x, success, score), kept, keep_first)


def _launch(
    kept: tuple[Tensor, ...],
    offered: tuple[Tensor, ...],
    out: tuple[Tensor, ...],
    keep_first: bool,
) -> Tensor:
    x, rows = offered[0], offered[0].shape[0]
    better = torch.empty_like(offered[1])
    if rows == 0:
        return better
    elements = x.numel() // rows
    with torch.cuda.device_of(x):
        _decide_kernel[(triton.cdiv(rows, _ROWS),)](
            *kept[1:],
            *offered[1:],
            *out[1:],
            better,
            rows,
            keep_first=keep_first,
            block=_ROWS,
            num_warps=_ROW_WARPS,
            enable_fp_fusion=False,
        )
        if elements:
            num_chunks = triton.cdiv(elements, _CHUNK)
            _copy_rows_kernel[(rows * num_chunks,)](
                None if out is kept else kept[0],
                x,
                out[0],
                better,
                elements,
                num_chunks,
                chunk=_CHUNK,
                num_warps=_NUM_WARPS,
                enable_fp_fusion=False,
            )
    return better

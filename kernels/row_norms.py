"""Four norms of each row of a difference, in one pass over it.

A row is cut into chunks of a fixed length, whatever the batch: a few large rows fill the device,
and the norms of a row do not depend on the rows beside it. A second kernel adds up the chunks.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# 16 elements of each operand a thread
_CHUNK, _NUM_WARPS = 4096, 8


@triton.jit
def _row_norms_kernel(
    x, x0, linf, l2, l1, l0, elements, num_chunks, root: tl.constexpr, chunk: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    within = index * chunk + tl.arange(0, chunk)
    inside = within < elements
    offsets = row * elements + within
    image = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    clean = tl.load(x0 + offsets, mask=inside, other=0.0).to(tl.float32)
    size = tl.abs(image - clean)
    total = tl.sum(size, 0)
    square = tl.sum(size * size, 0)
    slot = row * num_chunks + index
    _store(linf + slot, l2 + slot, l1 + slot, tl.max(size, 0), square, total, root)
    tl.store(l0 + slot, tl.sum((size != 0).to(tl.int32), 0).to(tl.float32))


@triton.jit
def _combine_row_norms_kernel(
    part_linf, part_l2, part_l1, part_l0, linf, l2, l1, l0, num_chunks, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, block)
    inside = index < num_chunks
    slot = row * num_chunks + index
    largest = tl.max(tl.load(part_linf + slot, mask=inside, other=0.0), 0)
    square = tl.sum(tl.load(part_l2 + slot, mask=inside, other=0.0), 0)
    total = tl.sum(tl.load(part_l1 + slot, mask=inside, other=0.0), 0)
    count = tl.sum(tl.load(part_l0 + slot, mask=inside, other=0.0).to(tl.int32), 0)
    _store(linf + row, l2 + row, l1 + row, largest, square, total, True)
    tl.store(l0 + row, count.to(tl.float32))


@triton.jit
def _store(linf, l2, l1, largest, square, total, root: tl.constexpr):
    # tl.max passes over NaN; the sum of sizes, none of them negative, is NaN only where one is
    tl.store(linf, tl.where(total != total, total, largest))
    tl.store(l2, tl.sqrt_rn(square) if root else square)
    tl.store(l1, total)


def row_norms(x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L-infinity, L2, L1 and L0 norm of each row of x - x0, fp32; deterministic."""
    rows = x.shape[0]
    linf, l2, l1, l0 = (x.new_empty(rows, dtype=torch.float32) for _ in range(4))
    if rows == 0:
        return linf, l2, l1, l0
    elements = x.numel() // rows
    num_chunks = triton.cdiv(elements, _CHUNK)
    parts = (linf, l2, l1, l0)
    if num_chunks > 1:
        parts = x.new_empty(4, rows, num_chunks, dtype=torch.float32).unbind()
    with torch.cuda.device_of(x):
        _row_norms_kernel[(rows, num_chunks)](
            x,
            x0,
            *parts,
            elements,
            num_chunks,
            root=num_chunks == 1,
            chunk=_CHUNK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
        if num_chunks > 1:
            block = triton.next_power_of_2(num_chunks)
            _combine_row_norms_kernel[(rows,)](
                *parts,
                linf,
                l2,
                l1,
                l0,
                num_chunks,
                block=block,
                num_warps=max(1, min(16, block // 256)),
                enable_fp_fusion=False,
            )
    return linf, l2, l1, l0

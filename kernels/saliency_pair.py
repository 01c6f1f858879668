"""The best pair of a saliency map: every tile of pairs is compared, then the tiles' best are.

O(n^2) comparisons in O(n) memory: 1.1e10 a row of 150,528 features, each a few instructions.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# a program compares this many features with all that come after them, 16 pairs a thread at once
_FEATURES, _OTHERS, _NUM_WARPS = 32, 64, 4
_TILES, _TILE_WARPS = 512, 16  # bests of tiles that are compared at once


@triton.jit
def _load_points(alpha, beta, mask, start, within, features):
    """Alpha and -beta, NaN where a feature may not be picked."""
    inside = within < features
    allowed = tl.load(mask + start + within, mask=inside, other=0) != 0
    rise = tl.load(alpha + start + within, mask=inside, other=0.0).to(tl.float32)
    fall = -tl.load(beta + start + within, mask=inside, other=0.0).to(tl.float32)
    never = float("nan")
    return tl.where(allowed & inside, rise, never), tl.where(allowed & inside, fall, never)


@triton.jit
def _tile_best_kernel(
    alpha, beta, mask, worth, pair, features, tiles, block: tl.constexpr, others: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    start = (program // tiles) * features
    first = ((program % tiles) * block).to(tl.int32)
    one = first + tl.arange(0, block)
    rise, fall = _load_points(alpha, beta, mask, start, one, features)
    best = tl.full([block], -1.0, tl.float64)
    partner = tl.full([block], 0, tl.int32)
    for begin in range(first // others * others, features, others):
        other = begin + tl.arange(0, others)
        other_rise, other_fall = _load_points(alpha, beta, mask, start, other, features)
        up = rise[:, None] + other_rise[None, :]
        down = fall[:, None] + other_fall[None, :]
        counts = (up > 0) & (down > 0) & (one[:, None] < other[None, :])
        gain = tl.where(counts, up.to(tl.float64) * down.to(tl.float64), -1.0)
        value = tl.max(gain, 1)
        # the first of equals
        at = tl.min(tl.where(gain == value[:, None], other[None, :], 2147483647), 1)
        better = value > best
        partner = tl.where(better, at, partner)
        best = tl.where(better, value, best)
    value = tl.max(best, 0)
    i = tl.min(tl.where(best == value, one, 2147483647), 0)
    j = tl.min(tl.where(one == i, partner, 2147483647), 0)
    tl.store(worth + program, value)
    tl.store(pair + program, (i.to(tl.int64) << 32) | j)


@triton.jit
def _row_best_kernel(worth, pair, i, j, found, tiles, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = tl.full([block], -1.0, tl.float64)
    where = tl.full([block], 0, tl.int64)
    for begin in range(0, tiles, block):
        tile = begin + tl.arange(0, block)
        value = tl.load(worth + row * tiles + tile, mask=tile < tiles, other=-1.0)
        here = tl.load(pair + row * tiles + tile, mask=tile < tiles, other=0)
        better = value > best
        where = tl.where(better, here, where)
        best = tl.where(better, value, best)
    value = tl.max(best, 0)
    lowest = tl.min(tl.where(best == value, where, 9223372036854775807), 0)
    is_one = value >= 0
    tl.store(i + row, tl.where(is_one, lowest >> 32, -1))
    tl.store(j + row, tl.where(is_one, lowest & 0xFFFFFFFF, -1))
    tl.store(found + row, is_one)


def saliency_pair(alpha: Tensor, beta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair of features that raises the target most while it lowers the other classes."""
    rows, features = alpha.shape
    i = alpha.new_empty(rows, dtype=torch.int64)
    j = alpha.new_empty(rows, dtype=torch.int64)
    found = alpha.new_empty(rows, dtype=torch.bool)
    if rows == 0:
        return i, j, found
    tiles = triton.cdiv(features, _FEATURES)
    worth = alpha.new_empty(rows * tiles, dtype=torch.float64)
    pair = alpha.new_empty(rows * tiles, dtype=torch.int64)
    with torch.cuda.device_of(alpha):
        _tile_best_kernel[(rows * tiles,)](
            alpha,
            beta,
            mask,
            worth,
            pair,
            features,
            tiles,
            block=_FEATURES,
            others=_OTHERS,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
        _row_best_kernel[(rows,)](
            worth,
            pair,
            i,
            j,
            found,
            tiles,
            block=_TILES,
            num_warps=_TILE_WARPS,
            enable_fp_fusion=False,
        )
    return i, j, found

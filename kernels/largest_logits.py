"""The largest logits of a row, in descending order, the lowest index first among equals.

Of a tile they are taken one after the other; over the chunks of a long row each lane keeps its own
four, and the lanes are merged at the end. A NaN stands before every number, as in torch.argmax.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from .softmax_row import first_max, load_at


@triton.jit
def take_largest(start, real, x, column):
    """Index and value of the largest logit of each row, and the tile without it."""
    best, value = _find(start, real, x, column)
    return best, value, tl.where(column == best[:, None], float("-inf"), x)


@triton.jit
def _find(start, real, values, index):
    peak, best = first_max(values, index)
    best = tl.where(real, best, -1)
    value = load_at(start, best)
    # nothing but -inf is left, and the index may be that of a logit which was taken
    return best, tl.where((peak == float("-inf")) & (value == value), float("-inf"), value)


@triton.jit
def _above(x, value):
    return (x > value) | ((x != x) & (value == value))


@triton.jit
def insert(v1, v2, v3, v4, i1, i2, i3, i4, x, column):
    """Lane by lane, x in its place among the lane's four largest; an equal one stays before it."""
    above1, above2, above3, above4 = _above(x, v1), _above(x, v2), _above(x, v3), _above(x, v4)
    v4 = tl.where(above3, v3, tl.where(above4, x, v4))
    i4 = tl.where(above3, i3, tl.where(above4, column, i4))
    v3 = tl.where(above2, v2, tl.where(above3, x, v3))
    i3 = tl.where(above2, i2, tl.where(above3, column, i3))
    v2 = tl.where(above1, v1, tl.where(above2, x, v2))
    i2 = tl.where(above1, i1, tl.where(above2, column, i2))
    return tl.where(above1, x, v1), v2, v3, v4, tl.where(above1, column, i1), i2, i3, i4


@triton.jit
def merge_lanes(start, v1, v2, v3, v4, i1, i2, i3, i4):
    """Index and value of the largest logit of each row, and the lanes without it."""
    best, value = _find(start, tl.max(i1, 1) >= 0, v1, i1)
    won = i1 == best[:, None]
    v1, i1 = tl.where(won, v2, v1), tl.where(won, i2, i1)
    v2, i2 = tl.where(won, v3, v2), tl.where(won, i3, i2)
    v3, i3 = tl.where(won, v4, v3), tl.where(won, i4, i3)
    return best, value, v1, v2, v3, tl.where(won, float("-inf"), v4), i1, i2, i3, i4

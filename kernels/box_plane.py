"""The nearest point of a hyperplane within the box of images, for fab_projection and fab_step.

One program sweeps a row in chunks, as often as it takes; sums are fp64, so that neither the square
of a slope nor the difference of two long sums loses what decides. An order is 0 for L-infinity.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import math

import triton
import triton.language as tl

# 8 elements of each operand a thread
_LONGEST_CHUNK, _ELEMENTS = 4096, 8
_INFINITY = tl.constexpr(float("inf"))


def options_for(elements: int) -> dict[str, int | bool]:
    """Chunk and warps for rows of so many elements."""
    chunk = min(_LONGEST_CHUNK, max(256, triton.next_power_of_2(elements)))
    return {
        "chunk": chunk,
        "num_warps": chunk // (32 * _ELEMENTS),
        "maxnreg": 128,
        "enable_fp_fusion": False,
    }


def order_of(p: float) -> int:
    """The order of a norm as a kernel takes it."""
    return 0 if math.isinf(p) else int(p)


@triton.jit
def load_entry(x, slope, at, within, elements, positive):
    """Size of the slope, room towards the plane and the way there: fp64, 0 beyond the row."""
    inside = within < elements
    along = tl.load(slope + at + within, mask=inside, other=0.0).to(tl.float32)
    point = tl.load(x + at + within, mask=inside, other=0.0).to(tl.float64)
    upwards = (along > 0) != positive
    room = tl.maximum(tl.where(upwards, 1.0 - point, point), 0.0)
    return tl.abs(along), room, tl.where(upwards, 1.0, -1.0)


@triton.jit
def measure(x, slope, at, elements, value, chunk: tl.constexpr):
    """What all rooms together give, and whether the row has a plane."""
    full = tl.zeros([chunk], tl.float64)
    mass = tl.zeros([chunk], tl.float64)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        size, room, _ = load_entry(x, slope, at, within, elements, value > 0)
        full += size.to(tl.float64) * room
        mass += size.to(tl.float64)
    # finite only where every slope and the value are
    return tl.sum(full, 0), tl.sum(mass, 0) + tl.abs(value) < _INFINITY


@triton.jit
def _split(x, slope, at, elements, value, reach, order: tl.constexpr, chunk: tl.constexpr):
    """What entries that stop before this reach give, the pace of the others, and their number."""
    stopped = tl.zeros([chunk], tl.float64)
    pace = tl.zeros([chunk], tl.float64)
    number = tl.zeros([chunk], tl.int32)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        size, room, _ = load_entry(x, slope, at, within, elements, value > 0)
        size = size.to(tl.float64)
        weight = size if order == 2 else tl.full([chunk], 1.0, tl.float64)
        stops = room <= reach * weight
        stopped += tl.where(stops, size * room, 0.0)
        pace += tl.where(stops, 0.0, size * weight)
        number += stops.to(tl.int32)
    return tl.sum(stopped, 0), tl.sum(pace, 0), tl.sum(number, 0)


@triton.jit
def _find_reach(x, slope, at, elements, value, full, order: tl.constexpr, chunk: tl.constexpr):
    """Newton's method from 0 on a concave, piecewise linear function: it ends on the right piece.

    The missing part times the pace falls by a factor of 4 or more each time.
    """
    gap = tl.abs(value)
    reach = gap * 0.0
    before = -1
    going = (gap > 0) & (gap < full)
    while going:
        stopped, pace, number = _split(x, slope, at, elements, value, reach, order, chunk)
        going = (number != before) & (pace > 0)
        step = (gap - stopped) / tl.where(pace > 0, pace, 1.0)
        reach = tl.where(going, tl.maximum(reach, step), reach)
        before = number
    return tl.where((gap > 0) & (gap >= full), _INFINITY, reach)


@triton.jit
def _given(x, slope, at, elements, value, rank, chunk: tl.constexpr):
    """What entries of at least this rank give, and those of this very rank."""
    total = tl.zeros([chunk], tl.float64)
    tied = tl.zeros([chunk], tl.float64)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        size, room, _ = load_entry(x, slope, at, within, elements, value > 0)
        gives = size.to(tl.float64) * room
        found = size.to(tl.int32, bitcast=True)
        total += tl.where(found >= rank, gives, 0.0)
        tied += tl.where(found == rank, gives, 0.0)
    return tl.sum(total, 0), tl.sum(tied, 0)


@triton.jit
def _find_rank(x, slope, at, elements, value, full, chunk: tl.constexpr):
    """Bits of the least slope that is needed, and the part of their rooms that such entries go."""
    gap = tl.abs(value)
    open_ = (gap > 0) & (gap < full)
    rank = 0
    if open_:
        for level in range(31):
            raised = rank | (1 << (30 - level))
            total, _ = _given(x, slope, at, elements, value, raised, chunk)
            rank = tl.where(total >= gap, raised, rank)
    total, tied = _given(x, slope, at, elements, value, rank, chunk)
    rest = (gap - (total - tied)) / tl.where(tied > 0, tied, 1.0)
    share = tl.where(open_ & (tied > 0), tl.minimum(tl.maximum(rest, 0.0), 1.0), 1.0)
    return tl.where(gap > 0, rank, 0x7F800001), share


@triton.jit
def find_move(x, slope, at, elements, value, full, order: tl.constexpr, chunk: tl.constexpr):
    """What decides the move of a row: reach, or rank and share in L1."""
    if order == 1:
        rank, share = _find_rank(x, slope, at, elements, value, full, chunk)
        return value * 0.0, rank, share
    else:
        reach = _find_reach(x, slope, at, elements, value, full, order, chunk)
        return reach, 0, reach * 0.0


@triton.jit
def amount(size, room, reach, rank, share, order: tl.constexpr):
    """How far an entry goes."""
    if order == 0:
        most = tl.minimum(reach, room)
    elif order == 2:
        most = tl.minimum(reach * tl.where(size > 0, size, 1.0).to(tl.float64), room)
    else:
        found = size.to(tl.int32, bitcast=True)
        most = tl.where(found > rank, room, tl.where(found == rank, share * room, 0.0))
    return tl.where(size > 0, most, 0.0)

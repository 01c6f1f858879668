"""What the losses share: the tile of rows that a program takes, and the softmax of a row.

Everything is (rows, classes): a tile of several short rows, of one whole row, or a chunk of one
long row whose softmax is gathered lane by lane (Milakov and Gimelshein, arXiv:1805.02867).
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

from dataclasses import dataclass

import triton
import triton.language as tl

# 16 elements of each operand a thread at 16 warps, without spills
_LONGEST = 8192

_LOG2_E = tl.constexpr(1.4426950216293335)  # log2(e) in fp32, and what it lacks
_LOG2_E_REST = tl.constexpr(1.925963033500e-08)
_LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # finite: -inf less -inf is NaN
_LATER = tl.constexpr(1 << 30)
_NEVER = tl.constexpr((1 << 31) - 1)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The part of the logits that one program holds.

    Attributes:
        rows: rows of the tile, a power of 2.
        block: classes of the tile, a power of 2; the row is swept in chunks where it is longer.
        num_warps: warps of the program.
        max_registers: bound for a thread, or None for the compiler's choice.
    """

    rows: int
    block: int
    num_warps: int
    max_registers: int | None = None

    def options(self) -> dict[str, int | bool | None]:
        """What a kernel of this tile is launched with."""
        return {
            "num_warps": self.num_warps,
            "maxnreg": self.max_registers,
            "enable_fp_fusion": False,
        }


def tile_for(num_classes: int) -> Tile:
    """The tile for rows of `num_classes`."""
    if num_classes > _LONGEST:
        # left to itself ptxas gives 48 registers to some of these, and spills one to do so
        return Tile(rows=1, block=2048, num_warps=8, max_registers=128)
    block = triton.next_power_of_2(num_classes)
    rows = max(1, 512 // block)
    return Tile(rows=rows, block=block, num_warps=min(16, max(4, block // 256)))


@triton.jit
def exp(x):
    """e**x for x <= 0, as accurate as tl.exp2; 0 below -200.

    tl.exp rounds x * log2(e), an error that grows with |x|; here it is put back.
    """
    x = tl.maximum(x, -200.0, propagate_nan=tl.PropagateNan.ALL)
    power = x * _LOG2_E
    rest = tl.fma(x, _LOG2_E, -power) + x * _LOG2_E_REST
    y = tl.exp2(power)
    return tl.fma(y, rest * _LN_2, y)


@triton.jit
def first_max(values, index):
    """Maximum of each row without its NaN, and the index of the first NaN or else first maximum."""
    peak = tl.max(values, 1)
    later = tl.where(values == peak[:, None], index + _LATER, _NEVER)
    first = tl.min(tl.where(values != values, index, later), 1)
    return peak, first % _LATER


@triton.jit
def follow_max(peak, index, x, column):
    """Lane by lane, the running maximum and its first index; the first NaN stays."""
    better = (x > peak) | ((x != x) & (peak == peak))
    return tl.where(better, x, peak), tl.where(better, column, index)


@triton.jit
def online_weights(peak, x, factor):
    """Weights exp(factor * (value - new maximum)) of what a lane has gathered and of x."""
    decay = exp(-tl.abs(x - peak) * factor)
    rises = x > peak
    return tl.where(rises, decay, 1.0), tl.where(rises, 1.0, decay)


@triton.jit
def load_labels(labels, num_classes: tl.constexpr, inside):
    """Labels as int32, half the registers; -1, which is no column, for one out of range."""
    label = tl.load(labels, mask=inside, other=-1)
    return tl.where((label >= 0) & (label < num_classes), label, -1).to(tl.int32)


@triton.jit
def load_at(row, label):
    """The logit at each row's label, fp32; NaN for -1."""
    return tl.load(row + label, mask=label >= 0, other=float("nan")).to(tl.float32)

"""The norm of a row of gradients, gathered over chunks, and the row divided by it.

Each chunk is summed as multiples of its largest magnitude: the squares of 1e-30 and of 1e30 are no
fp32 numbers. A row of zeros, or with a NaN or an infinity, is no direction and becomes 0.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def scaled_part(values):
    """Largest magnitude of a chunk, NaN passed over, and the chunk's magnitudes divided by it."""
    size = tl.abs(values)
    largest = tl.max(tl.where(size == size, size, 0.0), 0)
    return largest, tl.div_rn(size, tl.where(largest > 0, largest, 1.0))


@triton.jit
def scaled_norm(largest, total, slots, inside, root: tl.constexpr):
    """Scale and norm of a row from its chunks, and whether it is a direction.

    total holds sums of magnitudes, or of their squares where root is set.
    """
    peaks = tl.load(largest + slots, mask=inside, other=0.0)
    sums = tl.load(total + slots, mask=inside, other=0.0)
    scale = tl.max(peaks, 0)
    shares = tl.div_rn(peaks, tl.where(scale > 0, scale, 1.0))
    norm = tl.sum(sums * shares * shares if root else sums * shares, 0)
    usable = (scale > 0) & (scale < float("inf")) & (norm == norm)
    return scale, tl.sqrt_rn(norm) if root else norm, usable


@triton.jit
def direction(values, scale, norm, usable):
    """Values divided by their row's norm; 0 where the row is no direction."""
    unit = tl.div_rn(tl.div_rn(values, tl.where(usable, scale, 1.0)), tl.where(usable, norm, 1.0))
    return tl.where(usable, unit, 0.0)

"""The projection on an L1 ball within the box, shared by l1_projection and l1_step.

One program sweeps a row in chunks, as often as it takes: lambda needs sums over the whole row, and
the number of sweeps is known to the row alone.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

# 8 elements of each operand a thread
_LONGEST_CHUNK, _ELEMENTS = 4096, 8
_CLOSE = tl.constexpr(1e-6)


def options_for(elements: int) -> dict[str, int | bool]:
    """Chunk and warps for rows of so many elements."""
    chunk = min(_LONGEST_CHUNK, max(256, triton.next_power_of_2(elements)))
    # left to itself ptxas gives 64 registers to some of these, and spills one to do so
    return {
        "chunk": chunk,
        "num_warps": chunk // (32 * _ELEMENTS),
        "maxnreg": 128,
        "enable_fp_fusion": False,
    }


@triton.jit
def rank_of(slope):
    """|slope| as an integer whose order is that of the magnitudes; NaN is 0."""
    bits = slope.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(bits > 0x7F800000, 0, bits)


@triton.jit
def _load_delta(x, grad, x0, start, within, elements, least, share):
    """The perturbation before the projection, and the clean image."""
    inside = within < elements
    clean = tl.load(x0 + start + within, mask=inside, other=0.0).to(tl.float32)
    delta = tl.load(x + start + within, mask=inside, other=0.0).to(tl.float32) - clean
    if grad is not None:
        slope = tl.load(grad + start + within, mask=inside, other=0.0).to(tl.float32)
        along = tl.where(slope > 0, share, -share)
        delta += tl.where(rank_of(slope) >= least, along, 0.0)
    return delta, clean


@triton.jit
def _shrunk(x, grad, x0, start, elements, least, share, shrink, chunk: tl.constexpr):
    """L1 norm of the row shrunk by this much, and how many entries more would shrink."""
    norm = tl.zeros([chunk], tl.float32)
    active = tl.zeros([chunk], tl.int32)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        delta, clean = _load_delta(x, grad, x0, start, within, elements, least, share)
        room = tl.where(delta > 0, 1.0 - clean, clean)
        left = tl.abs(delta) - shrink
        norm += tl.minimum(tl.maximum(left, 0.0), room)
        active += ((left > 0) & (left <= room)).to(tl.int32)
    return tl.sum(norm, 0), tl.sum(active, 0)


@triton.jit
def _largest(x, grad, x0, start, elements, least, share, chunk: tl.constexpr):
    largest = tl.zeros([chunk], tl.float32)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        delta, _ = _load_delta(x, grad, x0, start, within, elements, least, share)
        largest = tl.maximum(largest, tl.abs(delta))
    return tl.max(largest, 0)


@triton.jit
def _find_lambda(x, grad, x0, start, elements, least, share, eps, chunk: tl.constexpr):
    """Newton's method within a bracket, and a bisection each sixth time.

    From the last point, or else from the lower end. The norm is continuous, piecewise linear and
    falls with lambda, but a piece may be flat or the next one steeper.
    """
    low = eps * 0.0
    high = _largest(x, grad, x0, start, elements, least, share, chunk)
    shrink = low
    norm, active = _shrunk(x, grad, x0, start, elements, least, share, shrink, chunk)
    outside = norm > eps
    newton = _newton(shrink, norm, active, eps)
    newton_low = newton
    going = norm - eps > _CLOSE * eps
    turn = 1
    while going:
        shrink = tl.where((newton > low) & (newton < high), newton, newton_low)
        fits = (shrink > low) & (shrink < high) & (turn % 6 != 0)
        shrink = tl.where(fits, shrink, low + (high - low) * 0.5)
        between = (shrink > low) & (shrink < high)
        norm, active = _shrunk(x, grad, x0, start, elements, least, share, shrink, chunk)
        newton = _newton(shrink, norm, active, eps)
        above = norm > eps
        newton_low = tl.where(above, newton, newton_low)
        low = tl.where(above, shrink, low)
        high = tl.where(above, high, shrink)
        going = between & (tl.abs(norm - eps) > _CLOSE * eps)
        turn += 1
    return tl.where(outside & (newton >= low) & (newton <= high), newton, shrink)


@triton.jit
def _newton(shrink, norm, active, eps):
    """Where the piece at shrink meets eps; -1 on a flat one."""
    step = tl.div_rn(norm - eps, tl.maximum(active, 1).to(tl.float32))
    return tl.where(active > 0, shrink + step, -1.0)


@triton.jit
def project_row(x, grad, x0, out, start, elements, least, share, eps, chunk: tl.constexpr):
    """Projects the row that begins at start; grad is None where nothing moves first."""
    shrink = _find_lambda(x, grad, x0, start, elements, least, share, eps, chunk)
    for first in range(0, elements, chunk):
        within = first + tl.arange(0, chunk)
        delta, clean = _load_delta(x, grad, x0, start, within, elements, least, share)
        room = tl.where(delta > 0, 1.0 - clean, clean)
        left = tl.maximum(tl.abs(delta) - shrink, 0.0, propagate_nan=tl.PropagateNan.ALL)
        kept = tl.minimum(left, room, propagate_nan=tl.PropagateNan.ALL)
        moved = clean + tl.where(delta < 0, -kept, kept)
        raised = tl.maximum(moved, 0.0, propagate_nan=tl.PropagateNan.ALL)
        clipped = tl.minimum(raised, 1.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(out + start + within, clipped, mask=within < elements)

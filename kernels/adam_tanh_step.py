"""Carlini and Wagner's inner step: one pass, five reads and four writes an element.

Rows are cut into chunks of a fixed length; each leaves its part of the row's squared distance, and
a second kernel adds them up where there are several.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# 8 elements of each operand a thread: 16-byte accesses, and five of them in flight in fp32
_CHUNK, _NUM_WARPS = 2048, 8


@triton.jit
def _adam_tanh_step_kernel(
    w,
    m,
    v,
    grad,
    x0,
    scale,
    step,
    next_w,
    next_m,
    next_v,
    x,
    distance,
    elements,
    num_chunks,
    lr,
    pull,
    chunk: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    within = index * chunk + tl.arange(0, chunk)
    inside = within < elements
    at = row * elements + within
    t = tl.load(step + row)
    clean = tl.load(x0 + at, mask=inside, other=0.5).to(tl.float32)
    edge = 2.0 * tl.minimum(clean, 1.0 - clean)
    edge = edge + 1e-6 * (1.0 - edge)
    dark = clean < 0.5
    anchor = tl.where(dark, edge / 2.0, 1.0 - edge / 2.0)
    if t == 0:
        first = tl.zeros([chunk], tl.float32)
        second = tl.zeros([chunk], tl.float32)
        after = tl.where(dark, -0.5, 0.5) * tl.log(tl.div_rn(2.0 - edge, edge))
    else:
        before = tl.load(w + at, mask=inside, other=0.0)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        image, derivative = _box(before)
        away = 2.0 * pull * (image - anchor) + tl.load(scale + row) * slope
        g = derivative * away
        g = tl.where(g == g, tl.minimum(tl.maximum(g, -1e18), 1e18), 0.0)
        first = 0.9 * tl.load(m + at, mask=inside, other=0.0) + 0.1 * g
        second = 0.999 * tl.load(v + at, mask=inside, other=0.0) + 0.001 * g * g
        correction = _correction(t)
        root = tl.sqrt_rn(second) + (1e-8 * correction).to(tl.float32)
        after = before - tl.div_rn(_rate(t, lr, correction) * first, root)
    image, _ = _box(after)
    tl.store(next_w + at, after, mask=inside)
    tl.store(next_m + at, first, mask=inside)
    tl.store(next_v + at, second, mask=inside)
    tl.store(x + at, image, mask=inside)
    away = tl.where(inside, image - anchor, 0.0)
    tl.store(distance + row * num_chunks + index, tl.sum(away * away, 0))


@triton.jit
def _box(w):
    """The image of the variable, and its derivative."""
    u = tl.exp(-2.0 * tl.abs(w))
    whole = 1.0 + u
    return tl.div_rn(tl.where(w < 0, u, 1.0), whole), tl.div_rn(2.0 * u, whole * whole)


@triton.jit
def _correction(t):
    """The root of the bias of v at Adam's step t; in fp64, where 1 - 0.999 is no cancellation."""
    return tl.sqrt(1.0 - tl.exp(t.to(tl.float64) * -0.0010005003335835344))  # log(0.999)


@triton.jit
def _rate(t, lr, correction):
    """The step size of Adam's step t."""
    first = 1.0 - tl.exp(t.to(tl.float64) * -0.10536051565782628)  # log(0.9)
    return (lr * correction / first).to(tl.float32)


@triton.jit
def _add_chunks_kernel(parts, distance, num_chunks, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, block)
    part = tl.load(parts + row * num_chunks + index, mask=index < num_chunks, other=0.0)
    tl.store(distance + row, tl.sum(part, 0))


def adam_tanh_step(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    x0: Tensor,
    scale: Tensor,
    step: Tensor,
    lr: float,
    pull: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The variable and the moments after a step, the image and its squared distance.

    Computed in fp32, the image rounded once; deterministic.
    """
    out = torch.empty_like(w), torch.empty_like(m), torch.empty_like(v)
    return *out, *_launch((w, m, v), grad, x0, scale, step, lr, pull, out)


def adam_tanh_step_(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    x0: Tensor,
    scale: Tensor,
    step: Tensor,
    lr: float,
    pull: float,
) -> tuple[Tensor, Tensor]:
    """`adam_tanh_step` written into w, m and v; the image and its squared distance."""
    return _launch((w, m, v), grad, x0, scale, step, lr, pull, (w, m, v))


def _launch(
    place: tuple[Tensor, ...],
    grad: Tensor,
    x0: Tensor,
    scale: Tensor,
    step: Tensor,
    lr: float,
    pull: float,
    out: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor]:
    x, distance = torch.empty_like(grad), torch.empty_like(scale)
    if grad.numel() == 0:
        return x, distance
    rows = grad.shape[0]
    elements = grad.numel() // rows
    num_chunks = triton.cdiv(elements, _CHUNK)
    parts = distance
    if num_chunks > 1:
        parts = distance.new_empty(rows, num_chunks)
    with torch.cuda.device_of(grad):
        _adam_tanh_step_kernel[(rows, num_chunks)](
            *place,
            grad,
            x0,
            scale,
            step,
            *out,
            x,
            parts,
            elements,
            num_chunks,
            float(lr),
            float(pull),
            chunk=_CHUNK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
        if num_chunks > 1:
            block = triton.next_power_of_2(num_chunks)
            _add_chunks_kernel[(rows,)](
                parts,
                distance,
                num_chunks,
                block=block,
                num_warps=max(1, min(16, block // 256)),
                enable_fp_fusion=False,
            )
    return x, distance

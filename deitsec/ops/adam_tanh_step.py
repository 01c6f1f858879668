"""The inner step of Carlini and Wagner's attack, on the variable whose tanh is the image."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker

SHRINK = 1e-6  # how far a start stays from the box, for the variable at its border is infinite
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
LARGEST = 1e18


@op(
    "(Tensor w, Tensor m, Tensor v, Tensor grad, Tensor x0, Tensor scale, Tensor step, float lr, "
    "float pull) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    inplace=("w", "m", "v"),
)
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
    """Adam's descent of `pull * ||x - x0||^2 + scale * f(x)` in w, where x = (tanh(w) + 1) / 2.

    `g = dx/dw * (2 * pull * (x - x0) + scale * grad)`, `m = 0.9 m + 0.1 g`,
    `v = 0.999 v + 0.001 g^2`, `w -= lr * m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8)`,
    and the image at the new w: the inner iteration of Carlini & Wagner (arXiv:1608.04644, section
    VI), with Adam as published (Kingma & Ba, arXiv:1412.6980, algorithm 1). Their code's Adam adds
    its epsilon before the bias of v is corrected, which slows the first steps of pixels near the
    border of the box, where g is tiny. A row whose step is 0 starts
    anew instead: w is where the image is x0, and m and v are 0. In all of this x0 is
    drawn towards grey by a share of 1e-6, since w is infinite at the border of the box. A g
    that is NaN counts as 0, and one beyond 1e18 as that, whose square is an fp32 number. No
    gradient flows through it.

    Args:
        w: (B, ...) the variable; fp32 whatever the images are (fp64 for fp64 images).
        m: first moment, shape and dtype of w.
        v: second moment, shape and dtype of w.
        grad: gradient of f at the image of w; shape of w; fp32, bf16, fp16 (fp64 by the reference).
        x0: the clean image in [0, 1], shape and dtype of grad.
        scale: (B,) factor of each row's gradient, in the dtype of w; 0 leaves it out where it is
            finite. 0 times an infinity or a NaN is a NaN: the g of such an element counts as 0, and
            the pull is left out there too.
        step: (B,) int64, t: which step of Adam this is to each row, from 1; 0 starts anew.
        lr: Adam's step size, > 0.
        pull: weight of the squared distance, >= 0.

    Returns:
        w, m and v after the step, the image of w in the dtype of grad, and its squared distance
        from x0, (B,) in the dtype of w.

    Raises:
        ValueError: shapes differ, a row without elements, or lr or pull out of range.
        TypeError: dtypes that are not floating or do not go together.
    """
    rows = (-1, *(1,) * (w.ndim - 1))
    clean = x0.to(w.dtype)
    # twice the way to the nearer end of the box: 1 - |2 x0 - 1| without its cancellation
    edge = 2 * torch.minimum(clean, 1 - clean)
    edge = edge + SHRINK * (1 - edge)
    dark = clean < 0.5
    anchor = torch.where(dark, edge / 2, 1 - edge / 2)
    start = torch.where(dark, -0.5, 0.5).to(w.dtype) * torch.log((2 - edge) / edge)

    x, slope = _box(w)
    g = slope * (2 * pull * (x - anchor) + scale.view(rows) * grad.to(w.dtype))
    g = g.nan_to_num(0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    first = BETA_1 * m + (1 - BETA_1) * g
    second = BETA_2 * v + (1 - BETA_2) * g * g
    t = step.clamp_min(1).double()
    correction = torch.sqrt(1 - BETA_2**t)
    rate = (lr * correction / (1 - BETA_1**t)).to(w.dtype).view(rows)
    floor = (EPSILON * correction).to(w.dtype).view(rows)
    moved = w - rate * first / (torch.sqrt(second) + floor)

    fresh = (step == 0).view(rows)
    after = torch.where(fresh, start, moved)
    x, _ = _box(after)
    distance = (x - anchor).square().flatten(1).sum(1)
    first, second = torch.where(fresh, 0, first), torch.where(fresh, 0, second)
    return after, first, second, x.to(x0.dtype), distance


def _box(w: Tensor) -> tuple[Tensor, Tensor]:
    """The image of w, and its derivative, which 1 - tanh^2 would lose near the border."""
    u = torch.exp(-2 * w.abs())
    return torch.where(w < 0, u, 1) / (1 + u), 2 * u / (1 + u).square()


adam_tanh_step.backend("cpp", "torch.ops.deitsec_cpp.adam_tanh_step", device="cpu")
adam_tanh_step.backend("triton", "deitsec.kernels.adam_tanh_step:adam_tanh_step", device="cuda")
assert adam_tanh_step.inplace is not None
adam_tanh_step_ = adam_tanh_step.inplace


@adam_tanh_step.check
def _check(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    x0: Tensor,
    scale: Tensor,
    step: Tensor,
    lr: float,
    pull: float,
) -> None:
    name = "adam_tanh_step"
    _checks.same_shape(name, w.shape, m=m, v=v, grad=grad, x0=x0)
    _checks.rows(name, w=w)
    _checks.same_shape(name, w.shape[:1], scale=scale, step=step)
    _checks.floating(name, grad=grad, x0=x0)
    wide = torch.promote_types(grad.dtype, torch.float32)
    _checks.dtype(name, wide, w=w, m=m, v=v, scale=scale)
    _checks.dtype(name, torch.int64, step=step)
    _checks.positive(name, lr=lr)
    if not 0 <= pull < float("inf"):
        raise ValueError(f"{name}: pull must be >= 0 and finite, got {pull}")


@adam_tanh_step.cost
def _cost(w: Tensor, m: Tensor, v: Tensor, grad: Tensor, *rest: Any) -> int:
    return 6 * w.numel() * w.element_size() + 3 * grad.numel() * grad.element_size()


@adam_tanh_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        yield *_at_work(make, make.normal(*shape, scale=0.1), make.images(*shape)), 0.01, 1.0
        yield *_at_work(make, make.normal(*shape, scale=9), make.images(*shape)), 0.1, 0.0
    x0 = make.images(9, 3, 9, 9)
    x0.flatten(1)[:, :40] = 0
    x0.flatten(1)[:, 40:60] = 1
    yield *_at_work(make, make.hostile_rows(9, 3, 9, 9), x0), 0.01, 1.0
    yield *_at_work(make, torch.zeros_like(x0), x0), 0.01, 0.5
    strided = make.normal(9, 3, 9, 9).to(memory_format=torch.channels_last)
    w, *rest = _at_work(make, strided, x0)
    yield w.transpose(2, 3), *rest, 0.01, 1.0


def _at_work(make: SampleMaker, grad: Tensor, x0: Tensor) -> tuple[Tensor, ...]:
    """Rows at several steps of several searches; every third starts anew."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    rows, shape = x0.shape[0], x0.shape
    w, m = make.normal(*shape, scale=2).to(wide), make.normal(*shape, scale=0.01).to(wide)
    v = m.square() * (0.5 + make.images(*shape).to(wide))
    scale = make.normal(rows).to(wide).clamp(-1, 1)  # the largest fp32 number stays one
    scale[1::4] = 0
    step = make.labels(rows, 1000) + 1
    step[::3] = torch.tensor([0, 1, 10_000])[torch.arange(len(step[::3])) % 3]
    return w, m, v, grad, x0, scale, step

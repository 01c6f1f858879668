"""The step of FAB: two projections on the linearised boundary, and the point between them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker
from deitsec.ops.fab_projection import ORDERS, check_plane, planes, project

_LEAST_NORM = 1e-8


@op(
    "(Tensor x, Tensor x0, Tensor slope, Tensor value, float eta, float alpha_max, float p) "
    "-> Tensor"
)
def fab_step(
    x: Tensor,
    x0: Tensor,
    slope: Tensor,
    value: Tensor,
    eta: float,
    alpha_max: float,
    p: float,
) -> Tensor:
    """Step from x towards the boundary linearised there, drawn to the clean image.

    With d and d0 the moves of `fab_projection` from x and from x0 to the plane
    `{z: value + slope . (z - x) = 0}`, the next iterate is `(1 - alpha) (x + eta d) +
    alpha (x0 + eta d0)`, clipped to [0, 1], where `alpha = min(|d| / (|d| + |d0|), alpha_max)`
    (Croce & Hein, arXiv:1907.02044, equations 7 and 8). Norms are at least 1e-8, as in the authors'
    implementation. A row with a NaN or an infinity in its slope or value stays where it is. No
    gradient flows through it. In bf16 and fp16 the result is rounded once.

    Args:
        x: (B, ...) iterate in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        x0: the clean image, same shape and dtype.
        slope: gradient at x of the function that is 0 on the boundary, same shape and dtype.
        value: (B,) fp32 (fp64 for fp64 rows), that function at x.
        eta: overshoot of the projections, >= 1 to cross the boundary.
        alpha_max: the most that the clean image draws, in [0, 1].
        p: order of the norm: inf, 2 or 1.

    Returns:
        The next iterate, shape and dtype of x.

    Raises:
        ValueError: shapes differ, a row without elements, eta that is not positive, alpha_max out
            of range or another p.
        TypeError: dtypes that do not go together.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    at, clean, along = (t.flatten(1).double() for t in (x, x0, slope))
    value0 = value.double() + (along * (clean - at)).sum(1)
    near, usable = project(at, along, value, p)
    far, usable0 = project(clean, along, value0, p)
    norm, norm0 = (
        torch.linalg.vector_norm(d, p, dim=1, keepdim=True).clamp_min(_LEAST_NORM)
        for d in (near, far)
    )
    alpha = (norm / (norm + norm0)).clamp_max(alpha_max)
    mixed = (at + eta * near) * (1 - alpha) + (clean + eta * far) * alpha
    moved = torch.where((usable & usable0)[:, None], mixed.clamp(0, 1), at)
    return moved.to(wide).to(x.dtype).reshape(x.shape)


fab_step.backend("cpp", "torch.ops.deitsec_cpp.fab_step", device="cpu")
fab_step.backend("triton", "deitsec.kernels.fab_step:fab_step", device="cuda")


@fab_step.check
def _check(
    x: Tensor, x0: Tensor, slope: Tensor, value: Tensor, eta: float, alpha_max: float, p: float
) -> None:
    _checks.same_shape("fab_step", x.shape, x0=x0, slope=slope)
    _checks.floating("fab_step", x=x, x0=x0, slope=slope)
    _checks.rows("fab_step", x=x)
    _checks.positive("fab_step", eta=eta)
    if not 0 <= alpha_max <= 1:
        raise ValueError(f"fab_step: alpha_max must be in [0, 1], got {alpha_max}")
    check_plane("fab_step", x, value, p)


@fab_step.cost
def _cost(
    x: Tensor, x0: Tensor, slope: Tensor, value: Tensor, eta: float, alpha_max: float, p: float
) -> int:
    return 4 * x.numel() * x.element_size()


@fab_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for p in ORDERS:
        for x, slope, value in planes(make):
            x0 = (x + make.normal(*x.shape, scale=0.05)).clamp(0, 1)
            yield x, x0, slope, value, 1.05, 0.1, p
            yield x, x0, slope, -value, 1.0, 0.6, p

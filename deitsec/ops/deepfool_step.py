"""The step of DeepFool: which linearised boundary is nearest, and the step across it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker

FURTHER = 1e-4  # the authors': how far beyond the plane a step goes


@op(
    "(Tensor total, Tensor x0, Tensor slopes, Tensor values, Tensor held, float overshoot, float p)"
    " -> (Tensor, Tensor)"
)
def deepfool_step(
    total: Tensor,
    x0: Tensor,
    slopes: Tensor,
    values: Tensor,
    held: Tensor,
    overshoot: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Step across the nearest of the planes at which the values would be 0.

    The distance to a plane is `|value| / |slope|` in the dual norm; the nearest one's slope w is
    added to the perturbation, `total + (distance + 1e-4) w / |w|_2` in L2 and
    `total + (distance + 1e-4) sign(w)` in L-infinity, and the image is
    `clip(x0 + (1 + overshoot) total, 0, 1)` (Moosavi-Dezfooli et al., arXiv:1511.04599, algorithm 2
    and section 3.3). Of planes at one distance the first is taken. One with a slope of 0, or with a
    NaN or an infinity, is none; a row without a plane is not moved. No gradient flows through it.
    In bf16 and fp16 both results are rounded once, the image from the rounded perturbation.

    Args:
        total: (B, ...) perturbation so far; fp32, bf16, fp16 (fp64 by the reference).
        x0: the clean image in [0, 1], same shape and dtype.
        slopes: (B, J, ...) gradients of J functions, dtype of total.
        values: (B, J) fp32 (fp64 for fp64 rows), those functions.
        held: (B,) bool, rows that are not to move.
        overshoot: share of the perturbation that is added to it.
        p: order of the norm: inf or 2.

    Returns:
        The perturbation after the step, and the image; shape and dtype of total.

    Raises:
        ValueError: shapes that do not go together, a row without elements, a negative overshoot or
            another p.
        TypeError: dtypes that do not go together.
    """
    wide = torch.promote_types(total.dtype, torch.float32)
    along = slopes.flatten(2).double()
    size = torch.linalg.vector_norm(along, 1 if p == math.inf else 2, dim=2)
    distance = torch.where(size > 0, values.double().abs() / size, torch.inf)
    distance = torch.where(size.isfinite() & ~distance.isnan(), distance, torch.inf)
    least, nearest = distance.min(1, keepdim=True)
    moves = (least < torch.inf) & ~held[:, None]
    slope = along.gather(1, nearest[:, :, None].expand(-1, -1, along.shape[2]))[:, 0]
    unit = slope.sign() if p == math.inf else slope / size.gather(1, nearest)
    step = torch.where(moves, (least + FURTHER) * unit, 0)
    moved = (total.flatten(1).double() + step).to(wide).to(total.dtype)
    image = x0.flatten(1).double() + (1 + overshoot) * moved.double()
    image = image.clamp(0, 1).to(wide).to(total.dtype)
    return moved.reshape(total.shape), image.reshape(total.shape)


deepfool_step.backend("cpp", "torch.ops.deitsec_cpp.deepfool_step", device="cpu")
deepfool_step.backend("triton", "deitsec.kernels.deepfool_step:deepfool_step", device="cuda")


@deepfool_step.check
def _check(
    total: Tensor,
    x0: Tensor,
    slopes: Tensor,
    values: Tensor,
    held: Tensor,
    overshoot: float,
    p: float,
) -> None:
    _checks.same_shape("deepfool_step", total.shape, x0=x0)
    _checks.floating("deepfool_step", total=total, x0=x0, slopes=slopes)
    _checks.rows("deepfool_step", total=total)
    planes = slopes.shape[1:2]
    if slopes.ndim < 2 or 0 in planes:
        raise ValueError(
            f"deepfool_step: slopes must be (rows, planes, ...), got {tuple(slopes.shape)}"
        )
    shape = torch.Size((*total.shape[:1], *planes, *total.shape[1:]))
    _checks.same_shape("deepfool_step", shape, slopes=slopes)
    _checks.same_shape("deepfool_step", shape[:2], values=values)
    _checks.same_shape("deepfool_step", shape[:1], held=held)
    real = torch.float64 if total.dtype == torch.float64 else torch.float32
    _checks.dtype("deepfool_step", real, values=values)
    _checks.dtype("deepfool_step", torch.bool, held=held)
    if not 0 <= overshoot < math.inf:
        raise ValueError(f"deepfool_step: overshoot must be >= 0 and finite, got {overshoot}")
    if p not in (math.inf, 2):
        raise ValueError(f"deepfool_step: p must be inf or 2, got {p}")


@deepfool_step.cost
def _cost(
    total: Tensor,
    x0: Tensor,
    slopes: Tensor,
    values: Tensor,
    held: Tensor,
    overshoot: float,
    p: float,
) -> int:
    return (slopes.numel() + 4 * total.numel()) * total.element_size()


@deepfool_step.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    real = torch.float64 if make.dtype == torch.float64 else torch.float32
    for p in (math.inf, 2.0):
        for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
            for planes in (1, 4):
                rows = shape[0]
                slopes = make.normal(rows, planes, *shape[1:])
                values = make.normal(rows, planes).to(real)
                held = make.labels(rows, 4) == 0
                total = make.normal(*shape, scale=0.01)
                yield total, make.images(*shape), slopes, values, held, 0.02, p
        free = torch.zeros(9, dtype=torch.bool, device=make.device)
        slopes = make.hostile_rows(9, 3, 9, 9).unsqueeze(1)
        values, total = make.normal(9, 2).to(real), make.normal(9, 3, 9, 9, scale=0.01)
        yield total, make.images(9, 3, 9, 9), slopes, values[:, :1].contiguous(), free, 0.02, p
        both = torch.cat([slopes, make.normal(9, 1, 3, 9, 9)], 1)
        yield total, make.images(9, 3, 9, 9), both, values, free, 0.0, p
        twice = torch.cat([both[:, 1:], both[:, 1:]], 1)  # two planes at one distance
        turned = total.transpose(2, 3), make.images(9, 3, 9, 9), twice
        yield *turned, values[:, :1].repeat(1, 2), free, 0.02, p

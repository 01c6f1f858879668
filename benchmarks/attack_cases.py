"""The ops that single attacks are made of, each beside plain PyTorch."""

import functools
import math
from typing import Any

import torch

from benchmarks import eager_attacks as eager
from benchmarks.subjects import Inputs, Subject
from deitsec import ops

EPS, CLASSES = 8 / 255, 10


def _images(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.rand(shape, device=device).to(dtype)


def _apgd_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    """Of which every eighth row is better, and every sixteenth starts from its best."""
    x0 = _images(shape, dtype, device)
    near = [(x0 + EPS * torch.randn_like(x0)).clamp_(0, 1) for _ in range(3)]
    slopes = [torch.randn(shape, device=device).to(dtype) for _ in range(2)]
    rows = torch.arange(shape[0], device=device)
    step = torch.full(shape[:1], EPS, device=device)
    x_old, x, x_best = near
    grad, grad_best = slopes
    flags = rows % 8 == 0, rows % 16 == 0
    return x_old, x, x_best, grad_best, grad, x0, *flags, step, 0.75, EPS


def _fused_apgd(*inputs: Any) -> tuple[torch.Tensor, ...]:
    return ops.apgd_step_(*inputs)


def _adam_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    """After some steps: a second moment of nothing would make the worst error a matter of luck."""
    x0 = _images(shape, dtype, device)
    grad = torch.randn(shape, device=device).to(dtype)
    w, m = torch.randn(shape, device=device), 0.01 * torch.randn(shape, device=device)
    scale = torch.full(shape[:1], 0.1, device=device)
    step = torch.arange(shape[0], device=device) + 1
    return w, m, m.square() + 1e-6, grad, x0, scale, step, 0.01, 1.0


def _fused_adam(w: torch.Tensor, m: torch.Tensor, v: torch.Tensor, *rest: Any) -> Any:
    return w, m, v, *ops.adam_tanh_step_(w, m, v, *rest)


def _plane_inputs(p: float, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    """Planes that lie within the box, at a fifth of the way to its corner."""
    x, slope = _images(shape, dtype, device), torch.randn(shape, device=device).to(dtype)
    reach = (slope.abs() * torch.where(slope < 0, 1 - x, x)).flatten(1).float().sum(1)
    return x, slope, 0.2 * reach, p


def _fab_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x, slope, value, p = _plane_inputs(math.inf, shape, dtype, device)
    x0 = (x + EPS * torch.randn_like(x)).clamp_(0, 1)
    return x, x0, slope, 0.1 * value, 1.05, 0.1, p


def _deepfool_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x0 = _images(shape, dtype, device)
    slopes = torch.randn(shape[0], CLASSES - 1, *shape[1:], device=device).to(dtype)
    values = torch.randn(shape[0], CLASSES - 1, device=device)
    held = torch.zeros(shape[0], dtype=torch.bool, device=device)
    return 0.01 * torch.randn_like(x0), x0, slopes, values, held, 0.02, 2.0


def _window_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x0, ids = _images(shape, dtype, device), torch.arange(shape[0], device=device)
    x = (x0 + EPS * torch.sign(x0 - 0.5)).clamp_(0, 1)
    return x, x0, ids, torch.full_like(ids, 7), max(1, shape[-1] // 3), EPS, 0, 0


ATTACK_SUBJECTS = (
    Subject(
        op="apgd_step_",
        make=_apgd_inputs,
        fused=_fused_apgd,
        plain=eager.apgd_step_,
        exact=ops.apgd_step.reference,
        passes=41,
        registered="apgd_step",
    ),
    Subject(
        op="adam_tanh_step_",
        make=_adam_inputs,
        fused=_fused_adam,
        plain=eager.adam_tanh_step_,
        exact=ops.adam_tanh_step.reference,
        passes=58,
        registered="adam_tanh_step",
    ),
    *(
        Subject(
            op=f"fab_projection_{name}",
            make=functools.partial(_plane_inputs, p),
            fused=ops.fab_projection,
            plain=eager.fab_projection,
            exact=ops.fab_projection.reference,
            passes=60,
            registered="fab_projection",
        )
        for name, p in (("linf", math.inf), ("l2", 2.0), ("l1", 1.0))
    ),
    Subject(
        op="fab_step",
        make=_fab_inputs,
        fused=ops.fab_step,
        plain=eager.fab_step,
        exact=ops.fab_step.reference,
        passes=140,
    ),
    Subject(
        op="deepfool_step",
        make=_deepfool_inputs,
        fused=ops.deepfool_step,
        plain=eager.deepfool_step,
        exact=ops.deepfool_step.reference,
        passes=CLASSES + 13,
    ),
    Subject(
        op="square_window",
        make=_window_inputs,
        fused=ops.square_window,
        plain=eager.square_window,
        exact=ops.square_window.reference,
        passes=8,
        draws=True,
    ),
)

"""The ops that are measured, at which shapes, and what was promised of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import eager
from benchmarks.attack_cases import ATTACK_SUBJECTS
from benchmarks.subjects import Case, Inputs, Subject
from deitsec import ops

ALPHA, EPS = 2 / 255, 8 / 255


def _step_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x0 = torch.rand(shape, device=device).to(dtype)
    grad = torch.randn(shape, device=device).to(dtype)
    return x0.clone(), grad, x0, ALPHA, EPS


def _inplace_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    inputs = _step_inputs(shape, dtype, device)
    return (*inputs, torch.empty_like(inputs[0]))


def _l2_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    return (*_step_inputs(shape, dtype, device)[:3], 0.1, 0.5)


def _l1_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    """One pixel in 20 moves, and one in 20 has moved before."""
    x, grad, x0, *_ = _step_inputs(shape, dtype, device)
    x = torch.where(torch.rand_like(x) < 0.05, (x + 0.02 * grad).clamp_(0, 1), x)
    k = torch.full(shape[:1], max(1, x0[0].numel() // 20), device=device)
    return x, grad, x0, k, 12.0, 12.0


def _momentum_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x, grad, x0, *_ = _step_inputs(shape, dtype, device)
    momentum = torch.randn(shape, device=device) / x0[0].numel()
    return x, grad, momentum.to(dtype), x0, 1.0, ALPHA, EPS


def _start_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    ids = torch.arange(shape[0], device=device)
    return torch.rand(shape, device=device).to(dtype), ids, EPS


def _quantize_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    clean = torch.randint(0, 256, shape, device=device).to(torch.uint8)
    adv = (clean / 255 + 0.03 * torch.randn(shape, device=device)).clamp_(0, 1)
    return adv.to(dtype), clean, 8


def _norms_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    x0 = torch.rand(shape, device=device)
    x = (x0 + 0.02 * torch.randn(shape, device=device)).clamp_(0, 1)
    return x.to(dtype), x0.to(dtype)


def _best_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    """Of which every second row improves."""
    rows = torch.arange(shape[0], device=device)
    fails, low = torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(rows).float()
    best, x = (torch.rand(shape, device=device).to(dtype) for _ in range(2))
    return best, fails, low, x, fails, 1.0 - rows % 2, False


def _fused_best(best: Tensor, success: Tensor, score: Tensor, *offer: Any) -> tuple[Tensor, ...]:
    success, score = success.clone(), score.clone()  # or no row would improve a second time
    better = ops.track_best_(best, success, score, *offer)
    return best, success, score, better


def _logits_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    labels = torch.randint(0, shape[1], shape[:1], device=device)
    return torch.randn(shape, device=device).to(dtype), labels


def _distillation_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Inputs:
    student, labels = _logits_inputs(shape, dtype, device)
    return student, torch.randn(shape, device=device).to(dtype), labels, 4.0, 0.7


def _fused_distillation(student: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    leaf = student.detach().requires_grad_()
    loss = ops.distillation_loss(leaf, *rest)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


SUBJECTS = {
    subject.op: subject
    for subject in (
        *ATTACK_SUBJECTS,
        Subject(
            op="linf_step_",
            make=_inplace_inputs,
            fused=lambda *a: ops.linf_step_(*a[:5]),
            plain=eager.linf_step_,
            exact=lambda *a: ops.linf_step.reference(*a[:5]),
            passes=15,
            moved=4,
            registered="linf_step",
        ),
        Subject(
            op="linf_step",
            make=_step_inputs,
            fused=ops.linf_step,
            plain=eager.linf_step,
            exact=ops.linf_step.reference,
            passes=15,
        ),
        Subject(
            op="l2_step",
            make=_l2_inputs,
            fused=ops.l2_step,
            plain=eager.l2_step,
            exact=ops.l2_step.reference,
            passes=17,
        ),
        Subject(
            op="l1_step",
            make=_l1_inputs,
            fused=ops.l1_step,
            plain=eager.l1_step,
            exact=ops.l1_step.reference,
            passes=70,
        ),
        Subject(
            op="momentum_step",
            make=_momentum_inputs,
            fused=ops.momentum_step,
            plain=eager.momentum_step,
            exact=ops.momentum_step.reference,
            passes=21,
        ),
        Subject(
            op="random_start",
            make=_start_inputs,
            fused=lambda x0, ids, eps: ops.random_start(x0, ids, eps, 0),
            plain=lambda x0, ids, eps: eager.random_start(x0, eps),
            exact=lambda x0, ids, eps: ops.random_start.reference(x0, ids, eps, 0),
            passes=6,
            draws=True,
        ),
        Subject(
            op="quantize_uint8",
            make=_quantize_inputs,
            fused=ops.quantize_uint8,
            plain=eager.quantize_uint8,
            exact=ops.quantize_uint8.reference,
            passes=21,
        ),
        Subject(
            op="row_norms",
            make=_norms_inputs,
            fused=ops.row_norms,
            plain=eager.row_norms,
            exact=ops.row_norms.reference,
            passes=11,
        ),
        Subject(
            op="track_best_",
            make=_best_inputs,
            fused=_fused_best,
            plain=eager.track_best_,
            exact=ops.track_best.reference,
            passes=2,
            moved=1,
            registered="track_best",
        ),
        Subject(
            op="margin_loss",
            make=_logits_inputs,
            fused=ops.margin_loss,
            plain=eager.margin_loss,
            exact=ops.margin_loss.reference,
            passes=2,
        ),
        Subject(
            op="dlr_loss",
            make=_logits_inputs,
            fused=ops.dlr_loss,
            plain=eager.dlr_loss,
            exact=ops.dlr_loss.reference,
            passes=2,
        ),
        Subject(
            op="cross_entropy_loss",
            make=_logits_inputs,
            fused=ops.cross_entropy_loss,
            plain=eager.cross_entropy_loss,
            exact=ops.cross_entropy_loss.reference,
            passes=8,
            value=eager.cross_entropy_value,
        ),
        Subject(
            op="distillation_loss",
            make=_distillation_inputs,
            fused=_fused_distillation,
            plain=eager.distillation_loss,
            exact=eager.distillation_loss,
            passes=22,
            moved=3,
            value=eager.distillation_value,
            registered="distillation_rows",
        ),
    )
}


def headline() -> Iterator[Case]:
    """The shapes that the targets are about, with torch.compile beside them."""
    images, full = (64, 3, 224, 224), torch.float32
    step = ("linf_step_", "linf_step", "track_best_")
    for op in (*step, "row_norms", "quantize_uint8", "random_start"):
        for dtype in (full, torch.bfloat16):
            subject = SUBJECTS[op]
            more = op != "random_start"  # its reference is a Philox of integer tensors: seconds
            static = more and op != "track_best_"  # how many rows improve is known when it runs
            yield Case(subject=subject, shape=images, dtype=dtype, compiled=static, written=more)
    for op in ("l2_step", "momentum_step", "l1_step"):
        more = op != "l1_step"  # half of it is a sort, which torch.compile leaves as it is
        yield Case(subject=SUBJECTS[op], shape=images, dtype=full, compiled=more, written=more)
    for subject in ATTACK_SUBJECTS:
        yield Case(subject=subject, shape=images, dtype=full)
    for op in ("distillation_loss", "cross_entropy_loss", "margin_loss", "dlr_loss"):
        for classes in (10, 1000):
            yield Case(subject=SUBJECTS[op], shape=(512, classes), dtype=full, compiled=True)


def sweep() -> Iterator[Case]:
    """Every op from 1,000 to 10 million elements: nowhere slower than PyTorch."""
    for op, subject in SUBJECTS.items():
        if op == "square_window":  # of images only
            continue
        for power in range(3, 8):
            classes = 10 if power == 3 else 1000
            shape = (10**power // classes, classes) if "loss" in op else (10, 10 ** (power - 1))
            yield Case(subject=subject, shape=shape, dtype=torch.float32)


def targets() -> dict[tuple[str, str, str], float]:
    """(case, faster side, slower side) to the ratio of times that is promised on 2 CPU cores."""
    images = "64x3x224x224"
    return {
        (f"linf_step_-{images}-float32", "cpp", "eager"): 4.5,
        (f"linf_step_-{images}-bfloat16", "cpp", "eager"): 4.5,
        (f"linf_step_-{images}-float32", "cpp", "compile"): 1.2,
        (f"linf_step_-{images}-bfloat16", "cpp", "compile"): 1.2,
        ("distillation_loss-512x1000-float32", "cpp", "eager"): 3.0,
        ("distillation_loss-512x10-float32", "cpp", "eager"): 1.3,
        (f"row_norms-{images}-float32", "cpp", "eager"): 4.0,
        (f"row_norms-{images}-bfloat16", "cpp", "eager"): 4.0,
        (f"fab_projection_linf-{images}-float32", "cpp", "eager"): 4.0,
    }

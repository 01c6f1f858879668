"""Temperature distillation: loss and gradient from raw logits in one pass."""

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.compiler import is_compiling

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op(
    "(Tensor student, Tensor teacher, Tensor? labels, float temperature, float alpha, bool hard, "
    "float scale, bool with_grad) -> (Tensor, Tensor)"
)
def distillation_rows(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    alpha: float,
    hard: bool,
    scale: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Loss of each row and its gradient in the student's logits, both times `scale`.

    The meaning of `distillation_loss`, which is what to call.

    Returns:
        loss (B,) fp32 (fp64 for fp64) and gradient (B, K) in the student's dtype, or (0, K) where
        `with_grad` is false.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = student.to(wide), teacher.to(wide)
    if hard:
        soft_loss, soft_grad = _cross_entropy(s, t.argmax(1))
    else:
        log_p, log_q = (t / temperature).log_softmax(1), (s / temperature).log_softmax(1)
        p = log_p.exp()
        soft_loss = temperature**2 * (p * (log_p - log_q)).sum(1)
        soft_grad = temperature * (log_q.exp() - p)
    loss, grad = alpha * soft_loss, alpha * soft_grad
    if labels is not None:
        hard_loss, hard_grad = _cross_entropy(s, labels)
        loss, grad = loss + (1 - alpha) * hard_loss, grad + (1 - alpha) * hard_grad
    if not with_grad:
        return scale * loss, student.new_empty(0, student.shape[1])
    return scale * loss, (scale * grad).to(student.dtype)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    index = labels[:, None]
    loss = -logits.log_softmax(1).gather(1, index)[:, 0]
    others = logits.softmax(1).scatter(1, index, 0.0)
    return loss, others.scatter(1, index, -others.sum(1, keepdim=True))


distillation_rows.backend("cpp", "torch.ops.deitsec_cpp.distillation_rows", device="cpu")
distillation_rows.backend(
    "triton", "deitsec.kernels.distillation_rows:distillation_rows", device="cuda"
)
distillation_rows.backend("cuda", "torch.ops.deitsec_cuda.distillation_rows", device="cuda")


@distillation_rows.check
def _check(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    alpha: float,
    hard: bool,
    scale: float,
    with_grad: bool,
) -> None:
    name = "distillation_loss"
    _checks.logits(name, student)
    if teacher.shape != student.shape:
        raise ValueError(
            f"{name}: teacher and student must have the same rows and classes, "
            f"got {tuple(teacher.shape)} and {tuple(student.shape)}"
        )
    _checks.floating(name, student=student, teacher=teacher)
    _checks.positive(name, temperature=temperature)
    if not 0 <= alpha <= 1:
        raise ValueError(f"{name}: alpha must be in [0, 1], got {alpha}")
    if labels is not None:
        _checks.labels(name, labels, student.shape[0])
    elif alpha != 1:
        raise ValueError(f"{name}: labels are needed unless alpha is 1, got alpha {alpha}")


@distillation_rows.blame
def _blame(student: Tensor, teacher: Tensor, labels: Tensor | None, *_: Any) -> None:
    if labels is not None:
        _checks.label_range("distillation_loss", labels, student.shape[1])


@distillation_rows.cost
def _cost(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    alpha: float,
    hard: bool,
    scale: float,
    with_grad: bool,
) -> int:
    return (3 if with_grad else 2) * student.numel() * student.element_size()


@distillation_rows.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for rows, classes in ((1, 2), (3, 10), (7, 33), (0, 10), (5, 1000), (2, 20011)):
        student, teacher = make.normal(rows, classes, scale=3), make.normal(rows, classes, scale=3)
        labels = make.labels(rows, classes)
        yield student, teacher, labels, 4.0, 0.7, False, 1 / max(rows, 1), True
        yield student, teacher, labels, 1.0, 0.5, True, 1.0, True
        yield student, teacher, None, 3.0, 1.0, False, 1.0, True
        yield student, teacher, labels, 2.0, 0.0, False, 1.0, False
    # T^2 * KL loses digits on every backend: the errors of many rows compare, those of one are luck
    yield make.normal(64, 10, scale=3), make.normal(64, 10), None, 20.0, 1.0, False, 1.0, True
    wild = make.normal(4, 12, scale=200)
    yield wild, make.normal(4, 12, scale=200), make.labels(4, 12), 1000.0, 0.9, False, 1.0, True
    yield make.normal(9, 6).t(), make.normal(9, 6).t(), None, 3.0, 1.0, False, 1.0, True


class _DistillationLoss(torch.autograd.Function):
    """The gradient is made in the forward pass; backward only scales it, and has no derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor | None,
        temperature: float,
        alpha: float,
        hard: bool,
        scale: float,
    ) -> Tensor:
        loss, grad = distillation_rows(
            student, teacher, labels, temperature, alpha, hard, scale, True
        )
        ctx.save_for_backward(grad)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable sees `upstream` only, whose 1.0 requires no grad: the terms of a
        # second derivative would be dropped in silence
        if torch.is_grad_enabled() and not is_compiling():
            raise RuntimeError("distillation_loss: differentiable once, got create_graph=True")
        (grad,) = ctx.saved_tensors
        (upstream,) = grad_outputs
        # in the loss's fp32: fp16 has no 65,536, where torch.amp.GradScaler starts
        scaled = (grad.to(upstream.dtype) * upstream).to(grad.dtype)
        return (scaled, None, None, None, None, None, None)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    alpha: float,
    mode: Literal["soft", "hard"] = "soft",
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Knowledge-distillation loss from raw logits, differentiable in the student's.

    soft (Hinton et al., arXiv:1503.02531, section 2):
    `alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(student, y)`,
    whose soft part has gradient `alpha * T * (q - p)`: T^2 times the 1/T * (q - p) of the formula.
    hard (DeiT, arXiv:2012.12877, section 4):
    `alpha * CE(student, argmax teacher) + (1 - alpha) * CE(student, y)`.

    Args:
        student: (B, K) logits, K from 2 to 100,000; fp32, bf16, fp16 (fp64 by the reference).
        teacher: (B, K) logits, same dtype; no gradient flows to them.
        labels: (B,) int64 in 0 to K - 1; None where alpha is 1.
        temperature: > 0; up to 1,000 without overflow. Not used by hard.
        alpha: weight of the teacher's part, in [0, 1].
        mode: `soft` or `hard`.
        reduction: `mean` over rows or `sum`.

    Returns:
        Scalar, fp32 (fp64 for fp64); differentiable once.

    Raises:
        ValueError: shapes that differ, temperature, alpha, mode or reduction out of range, labels
            missing, or no row to take the mean of.
        TypeError: dtypes that differ or are not floating.
        IndexError: a label out of range (on the CPU).
        RuntimeError: in backward, with create_graph=True.
    """
    if mode not in ("soft", "hard"):
        raise ValueError(f"distillation_loss: mode must be soft or hard, got {mode!r}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"distillation_loss: reduction must be mean or sum, got {reduction!r}")
    if reduction == "mean" and student.shape[0] == 0:
        raise ValueError("distillation_loss: the mean of no rows; give at least one")
    scale = 1 / student.shape[0] if reduction == "mean" else 1.0
    # a gradient over B is too small for fp16, so there autograd divides after the op, in fp32
    half = student.element_size() < torch.float32.itemsize
    scale, after = (1.0, scale) if half else (scale, 1.0)
    hard = mode == "hard"
    if student.requires_grad and torch.is_grad_enabled():
        terms = (student, teacher, labels, temperature, alpha, hard, scale)
        loss = cast(Tensor, _DistillationLoss.apply(*terms))
    else:
        rows, _ = distillation_rows(
            student, teacher, labels, temperature, alpha, hard, scale, False
        )
        loss = rows.sum()
    return loss * after if half else loss

"""Distillation from raw logits: loss and gradient of each row, read once, or twice if long.

soft is T^2 * KL(softmax(teacher / T) || softmax(student / T)); hard is the cross-entropy at the
teacher's first maximum. Either may have the cross-entropy at the labels added to it. In every
cross-entropy the label's entry of the gradient is minus the sum of the others.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .softmax_row import (
    LOWEST,
    exp,
    first_max,
    follow_max,
    load_at,
    load_labels,
    online_weights,
    tile_for,
)


@triton.jit(do_not_specialize=["num_rows"])
def _distillation_soft_kernel(
    student,
    teacher,
    labels,
    loss,
    gradient,
    inverse_temperature,
    teacher_loss,
    teacher_gradient,
    label_weight,
    num_rows,
    num_classes: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)[None, :]
    real = row < num_rows
    inside = real[:, None] & (column < num_classes)
    offsets = (row * num_classes)[:, None] + column
    s = tl.load(student + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    t = tl.load(teacher + offsets, mask=inside, other=float("-inf")).to(tl.float32)

    s_peak, t_peak = tl.max(s, 1), tl.max(t, 1)
    a, b = (t - t_peak[:, None]) * inverse_temperature, (s - s_peak[:, None]) * inverse_temperature
    p, q = exp(a), exp(b)
    p_total, q_total = tl.sum(p, 1), tl.sum(q, 1)
    apart = tl.sum(tl.where(inside, p * (a - b), 0.0), 1)
    value = teacher_loss * (tl.div_rn(apart, p_total) - tl.log(tl.div_rn(p_total, q_total)))
    q_scale, p_scale = tl.div_rn(1.0, q_total), tl.div_rn(1.0, p_total)
    entry = teacher_gradient * (q * q_scale[:, None] - p * p_scale[:, None])
    if labels is not None:
        label = load_labels(labels + row, num_classes, real)
        at_label = load_at(student + row * num_classes, label) - s_peak
        is_label = column == label[:, None]
        e = exp(s - s_peak[:, None])
        others = tl.sum(tl.where(is_label, 0.0, e), 1)
        total = others + exp(at_label)
        value += label_weight * (tl.log(total) - at_label)
        entry += tl.where(is_label, -others[:, None], e) * tl.div_rn(label_weight, total)[:, None]
    tl.store(loss + row, value, mask=real)
    if gradient is not None:
        tl.store(gradient + offsets, entry, mask=inside)


@triton.jit
def _distillation_soft_chunked_kernel(
    student,
    teacher,
    labels,
    loss,
    gradient,
    inverse_temperature,
    teacher_loss,
    teacher_gradient,
    label_weight,
    num_classes: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    start = row * num_classes
    has_labels: tl.constexpr = labels is not None
    label = load_labels(labels + row, num_classes, row >= 0) if has_labels else row
    s_peak, t_peak, q_total, p_total, distance, others = _sweep_soft(
        student + start, teacher + start, label, inverse_temperature, has_labels, num_classes, block
    )
    value = teacher_loss * distance
    q_scale, p_scale = tl.div_rn(1.0, q_total), tl.div_rn(1.0, p_total)
    label_scale = q_scale
    if has_labels:
        at_label = load_at(student + start, label) - s_peak
        total = others + exp(at_label)
        value += label_weight * (tl.log(total) - at_label)
        label_scale = tl.div_rn(label_weight, total)
    tl.store(loss + row, value)
    if gradient is not None:
        for first in range(0, num_classes, block):
            column = first + tl.arange(0, block)[None, :]
            inside = column < num_classes
            offsets = start[:, None] + column
            s = tl.load(student + offsets, mask=inside, other=float("-inf")).to(tl.float32)
            t = tl.load(teacher + offsets, mask=inside, other=float("-inf")).to(tl.float32)
            s, t = s - s_peak[:, None], t - t_peak[:, None]
            q, p = exp(s * inverse_temperature), exp(t * inverse_temperature)
            entry = teacher_gradient * (q * q_scale[:, None] - p * p_scale[:, None])
            if has_labels:
                is_label = column == label[:, None]
                entry += tl.where(is_label, -others[:, None], exp(s)) * label_scale[:, None]
            tl.store(gradient + offsets, entry, mask=inside)


@triton.jit
def _sweep_soft(
    s_row,
    t_row,
    label,
    inverse_temperature,
    has_labels: tl.constexpr,
    num_classes: tl.constexpr,
    block: tl.constexpr,
):
    """Peaks, totals at the temperature, KL, and the student's total at 1 without the label."""
    lane = tl.arange(0, block)[None, :]
    # differences are taken from the first class: logits far from 0 would cancel
    s_origin, t_origin = _finite(tl.load(s_row)), _finite(tl.load(t_row))
    zero = tl.zeros([1, block], tl.float32)
    s_peaks, t_peaks = zero + LOWEST, zero + LOWEST
    p_sums, q_sums, apart_sums, others_sums = zero, zero, zero, zero
    for first in range(0, num_classes, block):
        column = first + lane
        inside = column < num_classes
        s = tl.load(s_row[:, None] + column, mask=inside, other=float("-inf")).to(tl.float32)
        t = tl.load(t_row[:, None] + column, mask=inside, other=float("-inf")).to(tl.float32)
        apart = ((t - t_origin[:, None]) - (s - s_origin[:, None])) * inverse_temperature
        old, new = online_weights(t_peaks, t, inverse_temperature)
        p_sums = p_sums * old + new
        apart_sums = apart_sums * old + tl.where(inside, new * apart, 0.0)
        old, new = online_weights(s_peaks, s, inverse_temperature)
        q_sums = q_sums * old + new
        if has_labels:
            old, new = online_weights(s_peaks, s, 1.0)
            others_sums = others_sums * old + tl.where(column == label[:, None], 0.0, new)
        s_peaks, t_peaks = tl.maximum(s_peaks, s), tl.maximum(t_peaks, t)

    s_peak, t_peak = tl.max(s_peaks, 1), tl.max(t_peaks, 1)
    s_peaks, t_peaks = s_peaks - s_peak[:, None], t_peaks - t_peak[:, None]
    p_weights = exp(t_peaks * inverse_temperature)
    p_total = tl.sum(p_sums * p_weights, 1)
    q_total = tl.sum(q_sums * exp(s_peaks * inverse_temperature), 1)
    others = tl.sum(others_sums * exp(s_peaks), 1)
    apart = tl.div_rn(tl.sum(apart_sums * p_weights, 1), p_total)
    shift = ((t_origin - t_peak) - (s_origin - s_peak)) * inverse_temperature
    distance = apart + shift - tl.log(tl.div_rn(p_total, q_total))
    return s_peak, t_peak, q_total, p_total, distance, others


@triton.jit
def _finite(logit):
    wide = logit.to(tl.float32)
    return tl.where(tl.abs(wide) < float("inf"), wide, 0.0)


@triton.jit(do_not_specialize=["num_rows"])
def _distillation_hard_kernel(
    student,
    teacher,
    labels,
    loss,
    gradient,
    teacher_weight,
    label_weight,
    num_rows,
    num_classes: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)[None, :]
    real = row < num_rows
    inside = real[:, None] & (column < num_classes)
    offsets = (row * num_classes)[:, None] + column
    s = tl.load(student + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    t = tl.load(teacher + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    _, target = first_max(t, column)
    target = tl.where(real, target, -1)
    has_labels: tl.constexpr = labels is not None
    label = load_labels(labels + row, num_classes, real) if has_labels else target

    peak = tl.max(s, 1)
    e = exp(s - peak[:, None])
    is_target, is_label = column == target[:, None], column == label[:, None]
    rest = tl.sum(tl.where(is_target | is_label, 0.0, e), 1)
    at_target = load_at(student + row * num_classes, target) - peak
    at_label = load_at(student + row * num_classes, label) - peak
    total, but_target, but_label = _totals(rest, at_target, at_label, target == label)
    value = teacher_weight * (tl.log(total) - at_target)
    entry = teacher_weight * tl.where(is_target, -but_target[:, None], e)
    if has_labels:
        value += label_weight * (tl.log(total) - at_label)
        entry += label_weight * tl.where(is_label, -but_label[:, None], e)
    tl.store(loss + row, value, mask=real)
    if gradient is not None:
        tl.store(gradient + offsets, entry * tl.div_rn(1.0, total)[:, None], mask=inside)


@triton.jit
def _distillation_hard_chunked_kernel(
    student,
    teacher,
    labels,
    loss,
    gradient,
    teacher_weight,
    label_weight,
    num_classes: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    start = row * num_classes
    target = _sweep_target(teacher + start, num_classes, block)
    has_labels: tl.constexpr = labels is not None
    label = load_labels(labels + row, num_classes, row >= 0) if has_labels else target
    peak, rest = _sweep_rest(student + start, target, label, num_classes, block)
    at_target = load_at(student + start, target) - peak
    at_label = load_at(student + start, label) - peak
    total, but_target, but_label = _totals(rest, at_target, at_label, target == label)
    value = teacher_weight * (tl.log(total) - at_target)
    if has_labels:
        value += label_weight * (tl.log(total) - at_label)
    tl.store(loss + row, value)
    if gradient is not None:
        inverse = tl.div_rn(1.0, total)[:, None]
        for first in range(0, num_classes, block):
            column = first + tl.arange(0, block)[None, :]
            inside = column < num_classes
            offsets = start[:, None] + column
            s = tl.load(student + offsets, mask=inside, other=float("-inf")).to(tl.float32)
            e = exp(s - peak[:, None])
            is_target, is_label = column == target[:, None], column == label[:, None]
            entry = teacher_weight * tl.where(is_target, -but_target[:, None], e)
            if has_labels:
                entry += label_weight * tl.where(is_label, -but_label[:, None], e)
            tl.store(gradient + offsets, entry * inverse, mask=inside)


@triton.jit
def _sweep_target(t_row, num_classes: tl.constexpr, block: tl.constexpr):
    """The first maximum of a long row."""
    lane = tl.arange(0, block)[None, :]
    peaks, targets = tl.full([1, block], LOWEST, tl.float32), lane
    for first in range(0, num_classes, block):
        column = first + lane
        t = tl.load(t_row[:, None] + column, mask=column < num_classes, other=float("-inf"))
        peaks, targets = follow_max(peaks, targets, t.to(tl.float32), column)
    _, target = first_max(peaks, targets)
    return target


@triton.jit
def _sweep_rest(s_row, target, label, num_classes: tl.constexpr, block: tl.constexpr):
    """Peak of a long row, and its total without target and label."""
    lane = tl.arange(0, block)[None, :]
    peaks, sums = tl.full([1, block], LOWEST, tl.float32), tl.zeros([1, block], tl.float32)
    for first in range(0, num_classes, block):
        column = first + lane
        s = tl.load(s_row[:, None] + column, mask=column < num_classes, other=float("-inf"))
        s = s.to(tl.float32)
        old, new = online_weights(peaks, s, 1.0)
        is_either = (column == target[:, None]) | (column == label[:, None])
        sums = sums * old + tl.where(is_either, 0.0, new)
        peaks = tl.maximum(peaks, s)
    peak = tl.max(peaks, 1)
    return peak, tl.sum(sums * exp(peaks - peak[:, None]), 1)


@triton.jit
def _totals(rest, at_target, at_label, same):
    """Total of a row, and its totals without the target and without the label."""
    but_target = rest + tl.where(same, 0.0, exp(at_label))
    but_label = rest + tl.where(same, 0.0, exp(at_target))
    return but_label + exp(at_label), but_target, but_label


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
    """Distillation loss of each row and its gradient in the student's logits, times `scale`.

    Computed in fp32. A label out of range makes the row's loss and gradient NaN.
    """
    num_rows, num_classes = student.shape
    loss = student.new_empty(num_rows, dtype=torch.float32)
    gradient = student.new_empty(num_rows if with_grad else 0, num_classes)
    if num_rows == 0:
        return loss, gradient
    weight = float(scale * alpha)
    weights = (1 / temperature, weight * temperature**2, weight * temperature)
    arguments: tuple[Any, ...] = (
        *(student, teacher, labels, loss, gradient if with_grad else None),
        *((weight,) if hard else weights),
        float(scale * (1 - alpha)),
    )
    tile = tile_for(num_classes)
    options = {"block": tile.block, **tile.options()}
    with torch.cuda.device_of(student):
        if num_classes > tile.block:
            kernel = (
                _distillation_hard_chunked_kernel if hard else _distillation_soft_chunked_kernel
            )
            kernel[(num_rows,)](*arguments, num_classes, **options)
        else:
            kernel = _distillation_hard_kernel if hard else _distillation_soft_kernel
            kernel[(triton.cdiv(num_rows, tile.rows),)](
                *arguments, num_rows, num_classes, rows=tile.rows, **options
            )
    return loss, gradient

"""The losses made of a row's 2, 3 or 4 largest logits: margin, DLR and targeted DLR.

The logits are read once; all but a few entries of the gradient are 0. Where a logit stands in the
numerator and in the denominator of DLR, 1 less a number near 1 is written as a difference.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .largest_logits import insert, merge_lanes, take_largest
from .softmax_row import load_at, load_labels, tile_for

_EPSILON = tl.constexpr(1e-12)


@triton.jit
def _rise(start, row, targets, label, first, z1, second, z2, num_classes: tl.constexpr, real):
    """The class whose logit is to rise, and that: the target's, or the largest but the label's."""
    if targets is None:
        right = first == label
        return tl.where(right, second, first), tl.where(right, z2, z1)
    else:
        target = load_labels(targets + row, num_classes, real)
        return target, load_at(start, target)


@triton.jit
def _shared(index, up, down, with_up, with_down, alone, spread):
    """The gradient at a logit of the denominator, which may stand in the numerator too."""
    both = tl.where(index == down, -with_down, with_up)
    both = tl.div_rn(both, spread)
    entry = tl.div_rn(tl.where((index == down) | (index == up), both, alone), spread)
    # fewer logits above -inf than the ratio needs: inf / inf
    return tl.where(spread == float("inf"), 0.0, entry)


@triton.jit
def _row_loss(label, up, first, third, fourth, z_down, z_up, z1, z3, z4, num_low: tl.constexpr):
    """The loss, and the gradient at up, first, third and fourth; at the label it is -up's."""
    difference = z_up - z_down
    if num_low == 0:
        at_up = tl.full(difference.shape, 1.0, tl.float32)
        return difference, at_up, at_up, at_up, at_up
    else:
        share: tl.constexpr = 1.0 / num_low
        drop3, up3, down3 = z1 - z3, z_up - z3, z_down - z3
        drop4, up4, down4 = 0.0, 0.0, 0.0
        if num_low == 2:
            drop4, up4, down4 = z1 - z4, z_up - z4, z_down - z4
        spread = (drop3 + drop4) * share + _EPSILON
        loss = tl.div_rn(difference, spread)
        with_up, with_down = (down3 + down4) * share + _EPSILON, (up3 + up4) * share + _EPSILON
        at_first = _shared(first, up, label, with_up, with_down, -loss, spread)
        near_up, near_down = z1 - z_up, z1 - z_down
        with_up = (drop4 + near_down) * share + _EPSILON
        with_down = (drop4 + near_up) * share + _EPSILON
        at_third = _shared(third, up, label, with_up, with_down, loss * share, spread)
        with_up = (drop3 + near_down) * share + _EPSILON
        with_down = (drop3 + near_up) * share + _EPSILON
        at_fourth = _shared(fourth, up, label, with_up, with_down, loss * share, spread)
        return loss, tl.div_rn(1.0, spread), at_first, at_third, at_fourth


@triton.jit
def _entries(
    column,
    label,
    up,
    first,
    third,
    fourth,
    at_up,
    at_first,
    at_third,
    at_fourth,
    num_low: tl.constexpr,
):
    """The gradient of a tile of columns; NaN throughout where label or target is no class."""
    entry = tl.where(column == up[:, None], at_up[:, None], 0.0)
    entry = tl.where(column == label[:, None], -at_up[:, None], entry)
    if num_low >= 1:
        entry = tl.where(column == third[:, None], at_third[:, None], entry)
        if num_low == 2:
            entry = tl.where(column == fourth[:, None], at_fourth[:, None], entry)
        entry = tl.where(column == first[:, None], at_first[:, None], entry)
        entry = tl.where(up[:, None] == label[:, None], 0.0, entry)
    return tl.where((label[:, None] < 0) | (up[:, None] < 0), float("nan"), entry)


@triton.jit(do_not_specialize=["num_rows"])
def _logit_ratio_kernel(
    logits,
    labels,
    targets,
    loss,
    gradient,
    predicted,
    num_rows,
    num_classes: tl.constexpr,
    num_low: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, block)[None, :]
    real = row < num_rows
    inside = real[:, None] & (column < num_classes)
    offsets = (row * num_classes)[:, None] + column
    x = tl.load(logits + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    label = load_labels(labels + row, num_classes, real)

    start = logits + row * num_classes
    first, z1, x = take_largest(start, real, x, column)
    second, z2, x = take_largest(start, real, x, column)
    third, fourth, z3, z4 = first, first, z1, z1
    if num_low >= 1:
        third, z3, x = take_largest(start, real, x, column)
    if num_low == 2:
        fourth, z4, x = take_largest(start, real, x, column)

    up, z_up = _rise(start, row, targets, label, first, z1, second, z2, num_classes, real)
    z_down = load_at(start, label)
    value, at_up, at_first, at_third, at_fourth = _row_loss(
        label, up, first, third, fourth, z_down, z_up, z1, z3, z4, num_low
    )
    tl.store(loss + row, value, mask=real)
    tl.store(predicted + row, first.to(tl.int64), mask=real)
    entry = _entries(
        column, label, up, first, third, fourth, at_up, at_first, at_third, at_fourth, num_low
    )
    tl.store(gradient + offsets, entry, mask=inside)


@triton.jit
def _logit_ratio_chunked_kernel(
    logits,
    labels,
    targets,
    loss,
    gradient,
    predicted,
    num_classes: tl.constexpr,
    num_low: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    start = logits + row * num_classes
    offset = (row * num_classes)[:, None]
    lane = tl.arange(0, block)[None, :]
    label = load_labels(labels + row, num_classes, row >= 0)

    v1 = tl.full([1, block], float("-inf"), tl.float32)
    v2, v3, v4 = v1, v1, v1
    i1, i2, i3, i4 = lane, lane, lane, lane
    for begin in range(0, num_classes, block):
        column = begin + lane
        x = tl.load(logits + offset + column, mask=column < num_classes, other=float("-inf"))
        x = x.to(tl.float32)
        v1, v2, v3, v4, i1, i2, i3, i4 = insert(v1, v2, v3, v4, i1, i2, i3, i4, x, column)
    first, z1, v1, v2, v3, v4, i1, i2, i3, i4 = merge_lanes(start, v1, v2, v3, v4, i1, i2, i3, i4)
    second, z2, v1, v2, v3, v4, i1, i2, i3, i4 = merge_lanes(start, v1, v2, v3, v4, i1, i2, i3, i4)
    third, z3, v1, v2, v3, v4, i1, i2, i3, i4 = merge_lanes(start, v1, v2, v3, v4, i1, i2, i3, i4)
    fourth, z4, v1, v2, v3, v4, i1, i2, i3, i4 = merge_lanes(start, v1, v2, v3, v4, i1, i2, i3, i4)

    up, z_up = _rise(start, row, targets, label, first, z1, second, z2, num_classes, row >= 0)
    z_down = load_at(start, label)
    value, at_up, at_first, at_third, at_fourth = _row_loss(
        label, up, first, third, fourth, z_down, z_up, z1, z3, z4, num_low
    )
    tl.store(loss + row, value)
    tl.store(predicted + row, first.to(tl.int64))
    for begin in range(0, num_classes, block):
        column = begin + lane
        entry = _entries(
            column, label, up, first, third, fourth, at_up, at_first, at_third, at_fourth, num_low
        )
        tl.store(gradient + offset + column, entry, mask=column < num_classes)


def margin_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest other logit less the label's, its gradient, and the predicted class.

    A label out of range makes the row's loss and gradient NaN.
    """
    return _launch(logits, labels, None, 0)


def dlr_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Difference of logits ratio, its gradient, and the predicted class; computed in fp32.

    A label out of range makes the row's loss and gradient NaN.
    """
    return _launch(logits, labels, None, 1)


def targeted_dlr_loss(
    logits: Tensor, labels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Targeted difference of logits ratio, its gradient, and the predicted class; in fp32.

    A label or target out of range makes the row's loss and gradient NaN.
    """
    return _launch(logits, labels, targets, 2)


def _launch(
    logits: Tensor, labels: Tensor, targets: Tensor | None, num_low: int
) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_classes = logits.shape
    loss = logits.new_empty(num_rows, dtype=torch.float32)
    gradient = torch.empty_like(logits)
    predicted = torch.empty_like(labels)
    if num_rows == 0:
        return loss, gradient, predicted
    tile = tile_for(num_classes)
    if num_low == 2:
        # left to itself ptxas of Triton 3.8 gives 96 registers to bf16, and spills two to do so
        tile = replace(tile, max_registers=128)
    options = {"num_low": num_low, "block": tile.block, **tile.options()}
    arguments = (logits, labels, targets, loss, gradient, predicted)
    with torch.cuda.device_of(logits):
        if num_classes > tile.block:
            _logit_ratio_chunked_kernel[(num_rows,)](*arguments, num_classes, **options)
        else:
            _logit_ratio_kernel[(triton.cdiv(num_rows, tile.rows),)](
                *arguments, num_rows, num_classes, rows=tile.rows, **options
            )
    return loss, gradient, predicted

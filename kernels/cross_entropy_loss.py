"""Cross-entropy, its gradient and the predicted class: the logits are read once, or twice if long.

The label's entry of the gradient is minus the sum of the others: 1 - softmax cancels in fp32.
"""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

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
def _cross_entropy_loss_kernel(
    logits,
    labels,
    loss,
    gradient,
    predicted,
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
    x = tl.load(logits + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    label = load_labels(labels + row, num_classes, real)
    at_label = load_at(logits + row * num_classes, label)

    peak, best = first_max(x, column)
    e = exp(x - peak[:, None])
    is_label = column == label[:, None]
    others = tl.sum(tl.where(is_label, 0.0, e), 1)
    total = others + exp(at_label - peak)
    tl.store(loss + row, tl.log(total) - (at_label - peak), mask=real)
    tl.store(predicted + row, best.to(tl.int64), mask=real)
    entry = tl.where(is_label, -others[:, None], e) * tl.div_rn(1.0, total)[:, None]
    tl.store(gradient + offsets, entry, mask=inside)


@triton.jit
def _cross_entropy_loss_chunked_kernel(
    logits,
    labels,
    loss,
    gradient,
    predicted,
    num_classes: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    start = (row * num_classes)[:, None]
    lane = tl.arange(0, block)[None, :]
    label = load_labels(labels + row, num_classes, row >= 0)
    at_label = load_at(logits + row * num_classes, label)

    lane_peak = tl.full([1, block], LOWEST, tl.float32)
    lane_best = lane
    lane_others = tl.zeros([1, block], tl.float32)
    for first in range(0, num_classes, block):
        column = first + lane
        x = tl.load(logits + start + column, mask=column < num_classes, other=float("-inf"))
        x = x.to(tl.float32)
        old, new = online_weights(lane_peak, x, 1.0)
        lane_others = lane_others * old + tl.where(column == label[:, None], 0.0, new)
        lane_peak, lane_best = follow_max(lane_peak, lane_best, x, column)

    peak, best = first_max(lane_peak, lane_best)
    others = tl.sum(lane_others * exp(lane_peak - peak[:, None]), 1)
    total = others + exp(at_label - peak)
    tl.store(loss + row, tl.log(total) - (at_label - peak))
    tl.store(predicted + row, best.to(tl.int64))
    inverse = tl.div_rn(1.0, total)[:, None]
    for first in range(0, num_classes, block):
        column = first + lane
        inside = column < num_classes
        x = tl.load(logits + start + column, mask=inside, other=float("-inf")).to(tl.float32)
        e = exp(x - peak[:, None])
        entry = tl.where(column == label[:, None], -others[:, None], e) * inverse
        tl.store(gradient + start + column, entry, mask=inside)


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each row, its gradient in the logits, and the predicted class.

    Computed in fp32. A label out of range makes the row's loss and gradient NaN.
    """
    num_rows, num_classes = logits.shape
    loss = logits.new_empty(num_rows, dtype=torch.float32)
    gradient = torch.empty_like(logits)
    predicted = torch.empty_like(labels)
    if num_rows == 0:
        return loss, gradient, predicted
    tile = tile_for(num_classes)
    options = {"block": tile.block, **tile.options()}
    arguments = (logits, labels, loss, gradient, predicted)
    with torch.cuda.device_of(logits):
        if num_classes > tile.block:
            _cross_entropy_loss_chunked_kernel[(num_rows,)](*arguments, num_classes, **options)
        else:
            _cross_entropy_loss_kernel[(triton.cdiv(num_rows, tile.rows),)](
                *arguments, num_rows, num_classes, rows=tile.rows, **options
            )
    return loss, gradient, predicted

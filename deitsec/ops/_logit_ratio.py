"""What the losses made of a few logits share: the largest ones, and a ratio with its gradient."""

import torch
from torch import Tensor

from deitsec.ops._samples import SampleMaker

EPSILON = 1e-12  # of arXiv:2003.01690, against a denominator of 0


def largest(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The largest logits (B, num) in descending order, and their indices.

    Of equal ones the lowest index comes first. Where all that is left is -inf, what index stands
    for it is not specified.
    """
    values: list[Tensor] = []
    indices: list[Tensor] = []
    for _ in range(num):
        indices.append(logits.argmax(1, keepdim=True))
        values.append(logits.gather(1, indices[-1]))
        logits = logits.scatter(1, indices[-1], -torch.inf)
    return torch.cat(values, 1), torch.cat(indices, 1)


def largest_other(z: Tensor, top: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Of the two largest logits the one that is not the label's: (B, 1) value and index."""
    right = top[:, :1] == label
    return torch.where(right, z[:, 1:2], z[:, :1]), torch.where(right, top[:, 1:2], top[:, :1])


def logit_ratio(
    z: Tensor, top: Tensor, up: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor], num_classes: int
) -> tuple[Tensor, Tensor]:
    """A difference of two logits over the spread of the largest, and the gradient of that.

    `(z_up - z_down) / (mean over low of (z_first - z_low) + 1e-12)`, low being all of the largest
    but two. Where a logit stands in the
    numerator and in the denominator, autograd adds 1 and a number near -1; here their sum is
    written as differences of logits, and keeps its digits.

    Args:
        z: (B, 3 or more) the largest logits, fp32 or fp64.
        top: their indices.
        up: (B, 1) logit and its index.
        down: (B, 1) logit and its index.
        num_classes: K.

    Returns:
        loss (B,) and gradient (B, K), dtype of z; 0 where up is down, or where a low one is -inf.
    """
    (z_up, at_up), (z_down, at_down) = up, down
    first, low, z_first, z_low = top[:, :1], top[:, 2:], z[:, :1], z[:, 2:]
    drops, num_low = z_first - z_low, low.shape[1]
    spread = drops.mean(1, keepdim=True) + EPSILON
    loss = (z_up - z_down) / spread
    gradient = z.new_zeros(z.shape[0], num_classes)
    gradient = gradient.scatter(1, at_up, 1 / spread).scatter(1, at_down, -1 / spread)

    def shared(index: Tensor, with_down: Tensor, with_up: Tensor, alone: Tensor) -> Tensor:
        both = torch.where(index == at_down, -with_down, with_up) / spread
        entry = torch.where((index == at_down) | (index == at_up), both, alone) / spread
        return gradient.scatter(1, index, entry)

    for j in range(num_low):
        others = drops[:, :j].sum(1, keepdim=True) + drops[:, j + 1 :].sum(1, keepdim=True)
        gradient = shared(
            low[:, j : j + 1],
            (others + (z_first - z_up)) / num_low + EPSILON,
            (others + (z_first - z_down)) / num_low + EPSILON,
            loss / num_low,
        )
    gradient = shared(
        first,
        (z_up - z_low).mean(1, keepdim=True) + EPSILON,
        (z_down - z_low).mean(1, keepdim=True) + EPSILON,
        -loss,
    )
    return loss[:, 0], torch.where((at_up == at_down) | spread.isinf(), 0, gradient)


def ranked_rows(make: SampleMaker, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 25 rows with the labels and targets of rank 1 to 5, each with each."""
    logits = make.normal(25, num_classes, scale=3)
    rank = torch.arange(25, device=logits.device)[:, None]
    order = logits.argsort(stable=True, dim=1, descending=True)
    last = num_classes - 1
    labels = order.gather(1, (rank // 5).clamp(max=last))[:, 0]
    targets = order.gather(1, (rank % 5).clamp(max=last))[:, 0]
    return logits, labels, targets

"""What the losses made of a few logits share: the largest ones, and a ratio with its gradient."""

import torch
from torch import Tensor

from deitsec.ops._samples import SampleMaker

EPSILON = 1e-12  # of arXiv:2003.01690, against a denominator of 0


def largest(logits: Tensor, num: int) -> Tensor:
    """Indices (B, num) of the largest logits, descending; of equal ones the lowest index first."""
    found: list[Tensor] = []
    for _ in range(num):
        found.append(logits.argmax(1))
        logits = logits.scatter(1, found[-1][:, None], -torch.inf)
    return torch.stack(found, 1)


def logit_ratio(logits: Tensor, top: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """A difference of two logits over the spread of the largest, and the gradient of that.

    `(z_up - z_down) / (mean over low of (z_first - z_low) + 1e-12)`. Where a logit stands in the
    numerator and in the denominator, autograd adds 1 and a number near -1; here their sum is
    written as differences of logits, and keeps its digits.

    Args:
        logits: (B, K), fp32 or fp64.
        top: (B, 2 + number of low) indices of the largest logits: first, second, then the low ones.
        up: (B, 1) index.
        down: (B, 1) index.

    Returns:
        loss (B,) and gradient (B, K), dtype of the logits; 0 where up is down.
    """
    first, low = top[:, :1], top[:, 2:]
    z_first, z_low, z_up, z_down = (logits.gather(1, i) for i in (first, low, up, down))
    drops, num_low = z_first - z_low, low.shape[1]
    spread = drops.mean(1, keepdim=True) + EPSILON
    loss = (z_up - z_down) / spread
    gradient = torch.zeros_like(logits).scatter(1, up, 1 / spread).scatter(1, down, -1 / spread)

    def shared(index: Tensor, with_down: Tensor, with_up: Tensor, alone: Tensor) -> Tensor:
        both = torch.where(index == down, -with_down, with_up) / spread
        entry = torch.where((index == down) | (index == up), both, alone) / spread
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
    return loss[:, 0], torch.where(up == down, 0, gradient)


def ranked_rows(make: SampleMaker, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 25 rows with the labels and targets of rank 1 to 5, each with each."""
    logits = make.normal(25, num_classes, scale=3)
    rank = torch.arange(25, device=logits.device)[:, None]
    order = logits.argsort(stable=True, dim=1, descending=True)
    last = num_classes - 1
    labels = order.gather(1, (rank // 5).clamp(max=last))[:, 0]
    targets = order.gather(1, (rank % 5).clamp(max=last))[:, 0]
    return logits, labels, targets

"""The margin of the label, with its gradient and the predicted class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks, _logit_ratio
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor)")
def margin_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest other logit less the label's, its gradient in the logits, and the predicted class.

    `max over j != y of z_j - z_y`, above 0 where the row is misclassified: the f6 of Carlini and
    Wagner (arXiv:1608.04644, section V-A) without its bound. The gradient is +1 at the largest
    other logit (the first of equals) and -1 at the label.

    Args:
        logits: (B, K) with K >= 2; fp32, bf16, fp16 (fp64 by the reference).
        labels: (B,) int64 in 0 to K - 1.

    Returns:
        loss (B,) fp32 (fp64 for fp64), gradient of the row's own loss (B, K) in the dtype of the
        logits, predicted class (B,) int64 (the first of equals; the first NaN where there is one).

    Raises:
        ValueError: shapes or dtypes that do not fit.
        IndexError: a label out of range (on the CPU; on a GPU the row's loss is NaN).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label, (z, top) = labels[:, None], _logit_ratio.largest(wide, 2)
    z_other, other = _logit_ratio.largest_other(z, top, label)
    loss = z_other - wide.gather(1, label)
    gradient = torch.zeros_like(logits).scatter(1, other, 1.0).scatter(1, label, -1.0)
    return loss[:, 0], gradient, top[:, 0].clone()


margin_loss.backend("cpp", "torch.ops.deitsec_cpp.margin_loss", device="cpu")
margin_loss.backend("triton", "deitsec.kernels.logit_ratio:margin_loss", device="cuda")


@margin_loss.check
def _check(logits: Tensor, labels: Tensor) -> None:
    _checks.logits("margin_loss", logits)
    _checks.floating("margin_loss", logits=logits)
    _checks.labels("margin_loss", labels, logits.shape[0])


@margin_loss.blame
def _blame(logits: Tensor, labels: Tensor) -> None:
    _checks.label_range("margin_loss", labels, logits.shape[1])


@margin_loss.cost
def _cost(logits: Tensor, labels: Tensor) -> int:
    return 2 * logits.numel() * logits.element_size()


@margin_loss.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for rows, classes in ((1, 3), (3, 10), (7, 33), (0, 10), (5, 1000), (2, 20011), (5, 2)):
        labels = make.labels(rows, classes)
        yield make.normal(rows, classes), labels
        yield make.normal(rows, classes, scale=30), labels
    for classes in (2, 5, 1000, 9001):
        yield _logit_ratio.ranked_rows(make, classes)[:2]
    yield make.normal(10, 6).t(), make.labels(6, 10)

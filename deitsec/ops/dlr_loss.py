"""The difference of logits ratio, with its gradient and the predicted class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks, _logit_ratio
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor)")
def dlr_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Difference of logits ratio, its gradient in the logits, and the predicted class.

    `-(z_y - max over i != y of z_i) / (z_pi1 - z_pi3 + 1e-12)`, pi sorting descending, the lowest
    index first among equals (Croce and Hein, arXiv:2003.01690, eq. 6). Shifting or scaling the
    logits does not change it. The gradient is that of numerator and denominator, computed in fp32
    from differences of logits, so that nothing cancels where the label's entry is near 0.

    Where the three largest logits are equal the denominator is 1e-12: loss and gradient are
    finite in fp32, and huge. The loss is 0 if the label is one of them, else 1e12 times the margin;
    the gradient is +-1e12, and 1e24 times the margin where the label is below them. In fp16 such a
    gradient is infinite. Where fewer than three logits are above -inf, loss and gradient are 0.

    Args:
        logits: (B, K) with K >= 3; fp32, bf16, fp16 (fp64 by the reference).
        labels: (B,) int64 in 0 to K - 1.

    Returns:
        loss (B,) fp32 (fp64 for fp64), gradient of the row's own loss (B, K) in the dtype of the
        logits, predicted class (B,) int64 (the first of equals; the first NaN where there is one).

    Raises:
        ValueError: shapes or dtypes that do not fit, or fewer than 3 classes.
        IndexError: a label out of range (on the CPU; on a GPU the row's loss is NaN).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label, (z, top) = labels[:, None], _logit_ratio.largest(wide, 3)
    up, down = _logit_ratio.largest_other(z, top, label), (wide.gather(1, label), label)
    loss, gradient = _logit_ratio.logit_ratio(z, top, up, down, logits.shape[1])
    return loss, gradient.to(logits.dtype), top[:, 0].clone()


dlr_loss.backend("cpp", "torch.ops.deitsec_cpp.dlr_loss", device="cpu")
dlr_loss.backend("triton", "deitsec.kernels.logit_ratio:dlr_loss", device="cuda")


@dlr_loss.check
def _check(logits: Tensor, labels: Tensor) -> None:
    _checks.logits("dlr_loss", logits)
    _checks.enough_for_dlr("dlr_loss", logits, 3)
    _checks.floating("dlr_loss", logits=logits)
    _checks.labels("dlr_loss", labels, logits.shape[0])


@dlr_loss.blame
def _blame(logits: Tensor, labels: Tensor) -> None:
    _checks.label_range("dlr_loss", labels, logits.shape[1])


@dlr_loss.cost
def _cost(logits: Tensor, labels: Tensor) -> int:
    return 2 * logits.numel() * logits.element_size()


@dlr_loss.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for rows, classes in ((1, 3), (3, 10), (7, 33), (0, 10), (5, 1000)):
        labels = make.labels(rows, classes)
        yield make.normal(rows, classes), labels
        yield make.normal(rows, classes, scale=30), labels
    for classes in (3, 5, 1000, 9001, 20011):
        yield _logit_ratio.ranked_rows(make, classes)[:2]
    confident = make.normal(4, 10)
    confident[torch.arange(4), torch.arange(4)] += 25
    yield confident, torch.arange(4, device=confident.device)
    yield make.normal(10, 6).t(), make.labels(6, 10)

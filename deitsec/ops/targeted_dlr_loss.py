"""The targeted difference of logits ratio, with its gradient and the predicted class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks, _logit_ratio
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor logits, Tensor labels, Tensor targets) -> (Tensor, Tensor, Tensor)")
def targeted_dlr_loss(
    logits: Tensor, labels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Targeted difference of logits ratio, its gradient in the logits, and the predicted class.

    `-(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2 + 1e-12)`, pi sorting descending, the lowest index
    first among equals (Croce and Hein, arXiv:2003.01690, eq. 7). An attack climbs it: the label y
    falls, the target t rises. Shifting or scaling the logits does not change it. The gradient is
    that of numerator and denominator, computed in fp32 from differences of logits, so that nothing
    cancels. A target that is the label gives 0 and no gradient.

    Where the four largest logits are equal the denominator is 1e-12: loss and gradient are finite
    in fp32, and huge (1e12 and 1e24 times `z_t - z_y`, +-1e12 where that is 0). In fp16 such a
    gradient is infinite. Where fewer than four logits are above -inf, loss and gradient are 0.

    Args:
        logits: (B, K) with K >= 4; fp32, bf16, fp16 (fp64 by the reference).
        labels: (B,) int64 in 0 to K - 1.
        targets: (B,) int64 in 0 to K - 1.

    Returns:
        loss (B,) fp32 (fp64 for fp64), gradient of the row's own loss (B, K) in the dtype of the
        logits, predicted class (B,) int64 (the first of equals; the first NaN where there is one).

    Raises:
        ValueError: shapes or dtypes that do not fit, or fewer than 4 classes.
        IndexError: a label or target out of range (on the CPU; on a GPU the row's loss is NaN).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z, top = _logit_ratio.largest(wide, 4)
    up, down = ((wide.gather(1, at[:, None]), at[:, None]) for at in (targets, labels))
    loss, gradient = _logit_ratio.logit_ratio(z, top, up, down, logits.shape[1])
    return loss, gradient.to(logits.dtype), top[:, 0].clone()


targeted_dlr_loss.backend("cpp", "torch.ops.deitsec_cpp.targeted_dlr_loss", device="cpu")
targeted_dlr_loss.backend("triton", "deitsec.kernels.logit_ratio:targeted_dlr_loss", device="cuda")


@targeted_dlr_loss.check
def _check(logits: Tensor, labels: Tensor, targets: Tensor) -> None:
    _checks.logits("targeted_dlr_loss", logits)
    _checks.enough_for_dlr("targeted_dlr_loss", logits, 4)
    _checks.floating("targeted_dlr_loss", logits=logits)
    _checks.labels("targeted_dlr_loss", labels, logits.shape[0])
    _checks.labels("targeted_dlr_loss", targets, logits.shape[0], "target")


@targeted_dlr_loss.blame
def _blame(logits: Tensor, labels: Tensor, targets: Tensor) -> None:
    _checks.label_range("targeted_dlr_loss", labels, logits.shape[1])
    _checks.label_range("targeted_dlr_loss", targets, logits.shape[1], "target")


@targeted_dlr_loss.cost
def _cost(logits: Tensor, labels: Tensor, targets: Tensor) -> int:
    return 2 * logits.numel() * logits.element_size()


@targeted_dlr_loss.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for rows, classes in ((1, 5), (3, 10), (7, 33), (0, 10), (5, 1000)):
        labels, targets = make.labels(rows, classes), make.labels(rows, classes)
        yield make.normal(rows, classes), labels, targets
        yield make.normal(rows, classes, scale=30), labels, targets
    for classes in (4, 7, 1000, 9001, 20011):
        yield _logit_ratio.ranked_rows(make, classes)
    confident = make.normal(4, 10)
    confident[torch.arange(4), torch.arange(4)] += 25
    yield confident, torch.arange(4, device=confident.device), make.labels(4, 10)
    yield make.normal(10, 6).t(), make.labels(6, 10), make.labels(6, 10)

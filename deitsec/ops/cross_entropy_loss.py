"""Cross-entropy with its gradient and the predicted class, from one pass over the logits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor)")
def cross_entropy_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each row, its gradient in the logits, and the predicted class.

    The gradient is softmax - onehot. Its label entry is computed as minus the sum of the others:
    on a confident image 1 - softmax cancels in fp32, and what is left has wrong digits or is 0,
    which turns the signs of the input gradient (see docs/architecture.md, "Numerics").

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
    index = labels[:, None]
    loss = -wide.log_softmax(1).gather(1, index)[:, 0]
    gradient = wide.softmax(1).scatter(1, index, 0.0)
    gradient = gradient.scatter(1, index, -gradient.sum(1, keepdim=True))
    return loss, gradient.to(logits.dtype), wide.argmax(1)


cross_entropy_loss.backend("cpp", "torch.ops.deitsec_cpp.cross_entropy_loss", device="cpu")
cross_entropy_loss.backend(
    "triton", "deitsec.kernels.cross_entropy_loss:cross_entropy_loss", device="cuda"
)


@cross_entropy_loss.check
def _check(logits: Tensor, labels: Tensor) -> None:
    _checks.logits("cross_entropy_loss", logits)
    _checks.floating("cross_entropy_loss", logits=logits)
    _checks.labels("cross_entropy_loss", labels, logits.shape[0])


@cross_entropy_loss.blame
def _blame(logits: Tensor, labels: Tensor) -> None:
    _checks.label_range("cross_entropy_loss", labels, logits.shape[1])


@cross_entropy_loss.cost
def _cost(logits: Tensor, labels: Tensor) -> int:
    return 2 * logits.numel() * logits.element_size()


@cross_entropy_loss.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for rows, classes in ((1, 2), (3, 10), (7, 33), (0, 10), (5, 1000), (2, 20011)):
        labels = make.labels(rows, classes)
        yield make.normal(rows, classes), labels
        yield make.normal(rows, classes, scale=30), labels
    confident = make.normal(4, 10)
    confident[torch.arange(4), torch.arange(4)] += 25
    yield confident, torch.arange(4, device=confident.device)
    yield make.normal(10, 6).t(), make.labels(6, 10)

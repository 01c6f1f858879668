"""Logits of a model over rows of an image set."""

import torch
from torch import Tensor

from deitsec.data import ImageSet, to_float
from deitsec.models import Classifier
from deitsec.training.modes import eval_mode, place_of


def predict(
    model: Classifier, images: ImageSet, rows: Tensor | None = None, *, batch_size: int = 256
) -> Tensor:
    """Return the logits of rows in eval mode, without a gradient; the model's mode is put back.

    Args:
        model: the classifier, on any device.
        images: where to read.
        rows: (n,) int64 on the CPU, or None for all rows in order.
        batch_size: images a forward pass, >= 1.

    Returns:
        (n, K) float32 on the CPU.

    Raises:
        ValueError: if `batch_size` is below 1 or a row is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    rows = torch.arange(len(images)) if rows is None else rows
    device = place_of(model)
    logits = torch.empty(len(rows), model.num_classes)
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = to_float(images.images(rows[start : start + batch_size]).to(device))
            logits[start : start + batch_size] = model(batch).float().cpu()
    return logits

"""Rows with the same number of images of each class."""

import torch
from torch import Tensor


def balanced_rows(labels: Tensor, per_class: int, num_classes: int) -> Tensor:
    """Pick the first `per_class` rows of each class.

    Args:
        labels: (N,) integers.
        per_class: how many rows of each class, >= 1.
        num_classes: the classes are 0 to num_classes - 1; other labels are passed over.

    Returns:
        (per_class * num_classes,) int64 on the device of `labels`, ascending.

    Raises:
        ValueError: if a number is below 1, or a class has too few rows.
    """
    if per_class < 1 or num_classes < 1:
        raise ValueError(
            f"per_class and num_classes must be >= 1, got {per_class} and {num_classes}"
        )
    picked: list[Tensor] = []
    for label in range(num_classes):
        rows = torch.nonzero(labels == label).flatten()
        if len(rows) < per_class:
            raise ValueError(
                f"class {label} has {len(rows)} images, fewer than the {per_class} asked for"
            )
        picked.append(rows[:per_class])
    return torch.cat(picked).sort().values

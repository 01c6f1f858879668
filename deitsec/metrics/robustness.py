"""Which classes give way under attack, and what they are taken for."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from deitsec.metrics._checks import check_class_vectors


class ClassVulnerability(TypedDict):
    """How one class fares under attack; the figures of a class without rows are None."""

    label: int
    name: str
    rows: int
    clean_accuracy: float | None
    robust_accuracy: float | None
    """Share of the class's rows that are right on the clean and on the adversarial image."""
    most_confused_with: str | None
    """The wrong class that is predicted most often under attack; None if none ever is."""
    share: float
    """Share of the class's rows that are taken for that class under attack."""


def per_class_vulnerability(
    labels: Tensor,
    clean_predictions: Tensor,
    adv_predictions: Tensor,
    class_names: Sequence[str],
) -> list[ClassVulnerability]:
    """Accuracy before and under attack for each class, in the order of the classes.

    A tie for the most frequent confusion goes to the lowest class.

    Args:
        labels: (N,) integer classes in [0, len(class_names)).
        clean_predictions: (N,) integer classes predicted on the clean images.
        adv_predictions: (N,) integer classes predicted on the adversarial images.
        class_names: one name a class.

    Raises:
        ValueError: for no rows, unequal lengths, or classes out of range.
    """
    num_classes = len(class_names)
    check_class_vectors(
        num_classes,
        labels=labels,
        clean_predictions=clean_predictions,
        adv_predictions=adv_predictions,
    )
    labels, adv = labels.long(), adv_predictions.long()
    clean_right = clean_predictions.long() == labels
    robust_right = clean_right & (adv == labels)

    def per_class(chosen: Tensor) -> list[int]:
        counts: Any = torch.bincount(labels[chosen], minlength=num_classes)
        return counts.tolist()

    rows = per_class(torch.ones_like(clean_right))
    clean, robust = per_class(clean_right), per_class(robust_right)
    pairs = torch.bincount(labels * num_classes + adv, minlength=num_classes**2)
    wrong = pairs.view(num_classes, num_classes).fill_diagonal_(0).cpu()
    return [
        _vulnerability(label, class_names, rows[label], clean[label], robust[label], wrong[label])
        for label in range(num_classes)
    ]


def _vulnerability(
    label: int, class_names: Sequence[str], rows: int, clean: int, robust: int, wrong: Tensor
) -> ClassVulnerability:
    """One row of the table from the class's counts; `wrong` holds one count a class taken for."""
    most, taken_for = int(wrong.max()), int(wrong.argmax())  # the first of equal counts
    return {
        "label": label,
        "name": class_names[label],
        "rows": rows,
        "clean_accuracy": clean / rows if rows else None,
        "robust_accuracy": robust / rows if rows else None,
        "most_confused_with": class_names[taken_for] if most else None,
        "share": most / rows if most else 0.0,
    }

"""Accuracy, precision, recall, F1 and the confusion matrix of a set of predictions."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deitsec.metrics._checks import check_class_vectors

_FLOAT32_DIGITS = 6
"""torchmetrics averages in float32: digits beyond these are noise and are not reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationMetrics:
    """How well predictions agree with labels.

    `accuracy` is the share of rows that are right. `precision`, `recall` and `f1` are macro
    averages: every class that occurs among the labels or the predictions weighs the same, and a
    division by zero counts as 0. On data with equally many rows a class, recall equals accuracy.
    """

    rows: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion: list[list[int]]
    """Counts, (num_classes, num_classes); the row is the true label, the column the prediction."""
    mean_confidence: float | None
    """Mean probability given to the predicted class, in [0, 1]; None when it was not given."""


def classification_metrics(
    predictions: Tensor,
    labels: Tensor,
    num_classes: int,
    confidences: Tensor | None = None,
) -> ClassificationMetrics:
    """Compare predicted classes with true ones.

    Args:
        predictions: (N,) integer classes in [0, num_classes).
        labels: (N,) integer classes in [0, num_classes).
        num_classes: at least 2; classes without a row are allowed.
        confidences: (N,) floats, the probability of each prediction.

    Raises:
        ValueError: for no rows, unequal lengths, or classes out of range.
    """
    from torchmetrics.functional.classification import (
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    rows = check_class_vectors(num_classes, predictions=predictions, labels=labels)
    if confidences is not None and confidences.shape != labels.shape:
        raise ValueError(f"confidences must have shape ({rows},), got {tuple(confidences.shape)}")
    predictions, labels = predictions.long(), labels.long()
    macro = {
        name: round(
            float(
                measure(predictions, labels, num_classes, average="macro", validate_args=False),
            ),
            _FLOAT32_DIGITS,
        )
        for name, measure in (
            ("precision", multiclass_precision),
            ("recall", multiclass_recall),
            ("f1", multiclass_f1_score),
        )
    }
    matrix: Any = multiclass_confusion_matrix(predictions, labels, num_classes, validate_args=False)
    confusion: list[list[int]] = matrix.tolist()
    # From the integer counts: a float32 accuracy could fall below the robust accuracy it bounds.
    accuracy = sum(confusion[k][k] for k in range(num_classes)) / rows
    return ClassificationMetrics(
        rows=rows,
        accuracy=accuracy,
        **macro,
        confusion=confusion,
        mean_confidence=None if confidences is None else float(confidences.double().mean()),
    )

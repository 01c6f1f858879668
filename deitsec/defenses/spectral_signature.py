"""Spectral signatures: poisoned rows stand out along the main direction of their class."""

import math
from typing import Any

import torch
from torch import Tensor

from deitsec.defenses.suspicion import Suspicion, check_features

_SLACK = 1.5


def spectral_signatures(features: Tensor, labels: Tensor, *, expected: float) -> Suspicion:
    """Score rows by spectral signatures (Tran et al., arXiv:1811.00636, algorithm 1).

    In each class, with M the features less their mean and v its top right singular vector, a row
    scores (M_i . v)^2; the 1.5 eps n rows of highest score are flagged. As nobody tells which class
    is poisoned, so many are flagged of each, and clean rows among them.

    Args:
        features: (N, D), of the model that was trained on the rows.
        labels: (N,) the labels that it was trained on.
        expected: eps, the largest share of a class that may be poisoned, in (0, 1].

    Raises:
        ValueError: expected out of range, or features and labels that do not fit.
    """
    if not 0 < expected <= 1:
        raise ValueError(f"expected must be in (0, 1], got {expected}")
    check_features(features, labels)
    scores = torch.zeros(len(labels), dtype=torch.float64)
    flagged = torch.zeros(len(labels), dtype=torch.bool)
    classes: list[dict[str, Any]] = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        scores[rows] = outlier_scores(features[rows])
        # as many whole rows as 1.5 eps n has; in exact arithmetic, where 0.1 is a tenth
        count = min(len(rows), math.floor(_SLACK * expected * len(rows) + 1e-9))
        flagged[rows[scores[rows].argsort(descending=True, stable=True)[:count]]] = True
        classes.append({"class": label, "rows": len(rows), "flagged": count})
    return Suspicion(scores=scores, flagged=flagged, classes=classes)


def outlier_scores(features: Tensor) -> Tensor:
    """Return the squared coordinate along the main direction of centred features.

    Args:
        features: (n, D).

    Returns:
        (n,) fp64.
    """
    centred = features.double() - features.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return (centred @ directions[0]).square()

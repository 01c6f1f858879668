"""What a detector of poisoned rows says, and how right it is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deitsec.data import ImageSet, to_float
from deitsec.models.penultimate import penultimate
from deitsec.training.modes import eval_mode, place_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspicion:
    """Training rows that look poisoned.

    Attributes:
        scores: (N,) fp64, the higher the more suspect.
        flagged: (N,) bool, rows that the detector would remove.
        classes: what was found of each class, plain values.
    """

    scores: Tensor
    flagged: Tensor
    classes: list[dict[str, Any]]


def judge(suspicion: Suspicion, poisoned: Tensor) -> dict[str, Any]:
    """Hold a detector against the truth.

    Args:
        suspicion: what it says.
        poisoned: (N,) bool.

    Returns:
        Plain values: `rows`, `poisoned` and `flagged` (counts), `precision` (None where nothing is
        flagged), `recall`, `f1`, and `auroc`, the chance that a poisoned row scores higher than a
        clean one, ties half (`recall` and `auroc` None where all rows or none are poisoned).

    Raises:
        ValueError: another number of rows.
    """
    from sklearn.metrics import roc_auc_score

    flagged, rows = suspicion.flagged, len(poisoned)
    if len(flagged) != rows:
        raise ValueError(
            f"suspicion and truth must be of the same rows, got {len(flagged)}, {rows}"
        )
    hits, told, true = (int(x.sum()) for x in (flagged & poisoned, flagged, poisoned))
    both = 0 < true < rows
    return {
        "rows": rows,
        "poisoned": true,
        "flagged": told,
        "precision": hits / told if told else None,
        "recall": hits / true if true else None,
        "f1": 2 * hits / (told + true) if told + true else None,
        "auroc": float(roc_auc_score(poisoned.numpy(), suspicion.scores.numpy())) if both else None,
    }


def features_of(model: torch.nn.Module, images: ImageSet, *, batch_size: int = 256) -> Tensor:
    """Return the penultimate features of a whole set in eval mode: (N, D) fp64 on the CPU.

    Raises:
        ValueError: a model without a last linear layer, or `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    device = place_of(model)
    found: list[Tensor] = []
    with eval_mode(model):
        for rows in torch.arange(len(images)).split(batch_size):
            batch = to_float(images.images(rows).to(device))
            found.append(penultimate(model, batch).double().cpu())
    return torch.cat(found)


def check_features(features: Tensor, labels: Tensor) -> None:
    """Refuse features and labels that do not go together.

    Raises:
        ValueError: other shapes than (N, D) and (N,), no row, values that are not finite, or a row
            without a label.
    """
    if features.ndim != 2 or tuple(labels.shape) != tuple(features.shape[:1]) or len(labels) == 0:
        raise ValueError(
            f"features must be (N, D) and labels (N,), N >= 1, got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError("features must be finite: the model gives NaN or inf on some row")
    if int(labels.min()) < 0:
        raise ValueError("labels must be >= 0: rows are compared with those of their class")

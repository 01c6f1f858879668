"""A model whose answers are checked and counted."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class ModelError(ValueError):
    """The model returned something that cannot be attacked; the message says what."""


class CheckedModel:
    """Calls a model and refuses what cannot be logits.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits, in eval mode, frozen.
        labels: (N,) int64 of all rows; every label must be one of the K classes.
    """

    def __init__(self, model: Callable[[Tensor], Any], labels: Tensor) -> None:
        self.model = model
        self.labels = labels
        self._highest = int(labels.max())

    def __call__(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`.

        Raises:
            ModelError: not a (B, K) tensor with K >= 2.
            ValueError: a label that the model has no class for.
        """
        logits = self.model(x)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"the model must return a tensor of logits, got {type(logits).__name__}; "
                "deitsec.wrap() takes models whose output carries .logits"
            )
        if logits.ndim != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] < 2:
            raise ModelError(
                f"the model must return ({x.shape[0]}, classes) logits with at least 2 classes, "
                f"got {tuple(logits.shape)}"
            )
        if self._highest >= logits.shape[1]:
            self._name_label(logits.shape[1])
        return logits

    def _name_label(self, num_classes: int) -> None:
        row = int((self.labels >= num_classes).nonzero()[0])
        raise ValueError(
            f"labels must be in 0 to {num_classes - 1} (the model has {num_classes} classes), "
            f"got {int(self.labels[row])} in row {row}"
        )


def check_clean(logits: Tensor, sample_ids: Tensor) -> None:
    """Raise a ModelError for logits at clean images that are NaN or inf."""
    bad = (~logits.isfinite()).any(1).nonzero()
    if len(bad):
        raise ModelError(
            f"the model returned NaN or inf for {len(bad)} of {len(logits)} clean images "
            f"(the first is sample {int(sample_ids[int(bad[0])])})"
        )

"""A model whose answers are checked and counted."""

import torch
from torch import Tensor, nn


class ModelError(ValueError):
    """The model returned something that cannot be attacked; the message says what."""


class CheckedModel:
    """Calls a model and refuses what cannot be logits.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits, in eval mode, frozen.
        labels: (B,) int64; every label must be one of the K classes.
    """

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        self.model = model
        self.labels = labels
        self.forwards = 0

    def __call__(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`.

        Raises:
            ModelError: not a (B, K) tensor with K >= 2.
            ValueError: a label that the model has no class for.
        """
        logits = self.model(x)
        self.forwards += 1
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
        if self.forwards == 1:
            self._check_labels(logits.shape[1])
        return logits

    def clean(self, x: Tensor) -> Tensor:
        """(B, K) logits at the clean images, without a gradient."""
        with torch.no_grad():
            return self(x)

    def _check_labels(self, num_classes: int) -> None:
        outside = (self.labels >= num_classes).nonzero()
        if len(outside):
            row = int(outside[0])
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

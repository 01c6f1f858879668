"""Accuracy on images seen in training and not seen: does the training lack, or the images?"""

from typing import Any

import torch

from deitsec.data import DataSource
from deitsec.data.image_set import ImageSet
from deitsec.models import Classifier
from deitsec.training import predict

_SEEN_ROWS = 5000  # of the training images


def accuracy_unseen(network: Classifier, data: DataSource) -> dict[str, Any]:
    """On the whole test split: `rows` and `accuracy` in [0, 1]."""
    return _accuracy(network, data.test, len(data.test))


def accuracy_seen(network: Classifier, data: DataSource) -> dict[str, Any]:
    """On the first training images: `rows` and `accuracy` in [0, 1].

    Raises:
        ValueError: there are none.
    """
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split")
    return _accuracy(network, data.train, min(_SEEN_ROWS, len(data.train)))


def _accuracy(network: Classifier, images: ImageSet, count: int) -> dict[str, Any]:
    rows = torch.arange(count)
    right = predict(network, images, rows).argmax(1) == images.labels[rows]
    return {"rows": count, "accuracy": right.double().mean().item()}


def why_less_accurate(seen: float, unseen: float, published: float) -> str:
    """Which of the two is the larger part of the way to a published accuracy, in words."""
    if seen - unseen > published - seen:
        return "the larger part of the gap is between images seen and unseen"
    return "the larger part of the gap is there on images that it has seen"

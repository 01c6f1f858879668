"""The handwritten digits that ship with scikit-learn: 8 x 8 pixels, no download."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deitsec.data.array_set import ArrayImageSet
from deitsec.data.source import DataSource

_SIDE = 32
_TEST_PER_CLASS = 100


def load_digits_source(image_size: int | None) -> DataSource:
    """Load `digits`: 797 training and 1,000 test images, 1 x 32 x 32, ten classes.

    The 1,797 images of `sklearn.datasets.load_digits` (levels 0 to 16) are upsampled from 8 x 8,
    bilinear, and 0..16 becomes 0..255, rounded to nearest. The split is fixed and draws nothing: of
    the n rows of a class, in scikit-learn's order, rows floor(i * n / 100) for i in 0..99 are for
    testing, so that both splits hold every stretch of writers. Both splits keep scikit-learn's
    order.

    Args:
        image_size: None for 32 x 32, or the side to which the images are brought from there.
    """
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]

    bunch = cast(Any, load_digits())
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    levels = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    large = interpolate(levels, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    # Exact in fp32: weights are eighths and levels small integers, so every machine agrees.
    pixels = (large * 255 / 16).round().to(torch.uint8)
    for_test = _spread_rows(labels)
    test, train = (
        ArrayImageSet(pixels=pixels[mask], labels=labels[mask], image_size=image_size)
        for mask in (for_test, ~for_test)
    )
    names = tuple(str(digit) for digit in range(10))
    return DataSource(uri="digits", name="digits", train=train, test=test, class_names=names)


def _spread_rows(labels: Tensor) -> Tensor:
    """Mark `_TEST_PER_CLASS` rows of each class, evenly spaced among its rows: (N,) bool."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        rows = torch.nonzero(labels == label).flatten()
        mask[rows[torch.arange(_TEST_PER_CLASS) * len(rows) // _TEST_PER_CLASS]] = True
    return mask

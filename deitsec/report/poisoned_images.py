"""Poisoned training images: as they were, and as the model is given them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.image_matrix import image_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def poisoned_images(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    labels: Sequence[str],
    given: Sequence[str],
) -> "Figure":
    """Draw training images above the same, contaminated; the titles say the labels.

    Args:
        before: (n, H, W, C), n >= 1.
        after: the same, contaminated.
        labels: n true classes.
        given: n classes that the model is told.
    """
    titles = [
        f"{true} as {told}" if true != told else true
        for true, told in zip(labels, given, strict=True)
    ]
    pictures: list[Sequence[Any]] = [list(before), list(after)]
    return image_matrix(pictures, rows=("clean", "given"), columns=titles)

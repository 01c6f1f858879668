"""Training splits of which every image has a class."""

from deitsec.data import DataSource
from deitsec.data.image_set import UNLABELLED


def check_labelled(data: DataSource) -> None:
    """Raise a ValueError where the training split holds an image without a label.

    Args:
        data: with a training split, or without one, which passes.
    """
    if data.train is None:
        return
    without = int((data.train.labels == UNLABELLED).sum())
    if without:
        raise ValueError(
            f"{without} of {len(data.train)} training images of {data.uri} have no label, and each "
            "needs one here: label them or leave them out of the source"
        )

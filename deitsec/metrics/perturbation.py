"""The size of the perturbations of an attack, in three figures."""

from typing import TypedDict

from torch import Tensor


class DistanceSummary(TypedDict):
    """Mean, median and largest of a set of distances, in the units of the distances."""

    mean: float
    median: float
    max: float


def distance_summary(values: Tensor) -> DistanceSummary:
    """Summarise the distances between images and their adversarial versions.

    A NaN among the values makes all three figures NaN.

    Args:
        values: (N,) distances, one a row, in any norm. The median of an even number of rows is
            the mean of the middle two.

    Raises:
        ValueError: for no rows or another shape than (N,).
    """
    if values.ndim != 1:
        raise ValueError(f"values must have shape (N,), got {tuple(values.shape)}")
    if values.numel() == 0:
        raise ValueError("values must have at least one row, got none")
    ordered = values.detach().double().sort().values  # NaN sorts last, and so is the max
    rows = ordered.numel()
    largest = float(ordered[-1])
    if largest != largest:
        return {"mean": largest, "median": largest, "max": largest}
    middle = ordered[(rows - 1) // 2] + ordered[rows // 2]
    return {"mean": float(ordered.mean()), "median": float(middle / 2), "max": largest}

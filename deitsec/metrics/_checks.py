"""What the metrics demand of their tensors, said in the words of the caller."""

import torch
from torch import Tensor


def check_class_vectors(num_classes: int, **vectors: Tensor) -> int:
    """Check vectors of class numbers that belong together and return their length.

    Args:
        num_classes: every entry must lie in [0, num_classes).
        **vectors: (N,) integer tensors, under the names that the caller knows them by.

    Raises:
        ValueError: for a vector that is empty, not (N,), not of integers, of another length than
            the first, on another device, or with a class out of range.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    first_name, first = next(iter(vectors.items()))
    for name, vector in vectors.items():
        if vector.ndim != 1:
            raise ValueError(f"{name} must have shape (N,), got {tuple(vector.shape)}")
        if vector.is_floating_point() or vector.is_complex() or vector.dtype == torch.bool:
            raise ValueError(f"{name} must hold integer class numbers, got dtype {vector.dtype}")
        if vector.numel() == 0:
            raise ValueError(f"{name} must have at least one row, got none")
        if vector.numel() != first.numel():
            raise ValueError(
                f"{name} must have as many rows as {first_name} ({first.numel()}), "
                f"got {vector.numel()}"
            )
        if vector.device != first.device:
            raise ValueError(
                f"{name} must be on the device of {first_name} ({first.device}), "
                f"got {vector.device}"
            )
        low, high = (int(bound) for bound in vector.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name} must hold classes in [0, {num_classes}), got values from {low} to {high}"
            )
    return first.numel()

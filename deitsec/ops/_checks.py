"""The checks of arguments that ops share: one line, what was given and what was expected."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def floating(op: str, **tensors: Tensor) -> None:
    """Every tensor has a floating dtype, and all have the same one."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) == 1 and not dtypes.isdisjoint(FLOATS):
        return
    first = next(iter(tensors.values())).dtype
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{op}: {name} must be a floating tensor, got {tensor.dtype}")
        if tensor.dtype != first:
            raise TypeError(f"{op}: {name} must be {first} like the others, got {tensor.dtype}")


def same_shape(op: str, shape: torch.Size, **tensors: Tensor) -> None:
    """Every tensor has this shape."""
    for name, tensor in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"{op}: {name} must be {tuple(shape)}, got {tuple(tensor.shape)}")


def clean_image(op: str, x: Tensor, x0: Tensor) -> None:
    """The clean image is uint8 or of the iterate's dtype."""
    if x0.dtype not in (x.dtype, torch.uint8):
        raise TypeError(f"{op}: x0 must be {x.dtype} or torch.uint8, got {x0.dtype}")


def logits(op: str, logits: Tensor) -> None:
    """Logits are (rows, at least 2 classes)."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"{op}: logits must be (rows, classes) with at least 2 classes, "
            f"got {tuple(logits.shape)}"
        )


def enough_for_dlr(op: str, logits: Tensor, least: int) -> None:
    """There are the classes that the ratio sorts."""
    if logits.shape[1] < least:
        raise ValueError(
            f"{op}: needs at least {least} classes, got {logits.shape[1]}; use margin_loss"
        )


def labels(op: str, labels: Tensor, rows: int, what: str = "label") -> None:
    """Labels are (rows,) int64."""
    if labels.dtype != torch.int64 or labels.shape != (rows,):
        raise ValueError(
            f"{op}: {what}s must be ({rows},) torch.int64, got {tuple(labels.shape)} {labels.dtype}"
        )


def label_range(op: str, labels: Tensor, num_classes: int, what: str = "label") -> None:
    """Every label names a class; reads the values, so it waits for the device."""
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if wrong.numel():
        row = int(wrong[0])
        raise IndexError(
            f"{op}: {what} {int(labels[row])} of row {row} is out of range for "
            f"{num_classes} classes"
        ) from None


def positive(op: str, **values: float) -> None:
    """Every value is a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{op}: {name} must be > 0 and finite, got {value}")


def dtype(op: str, dtype: torch.dtype, **tensors: Tensor) -> None:
    """Every tensor has this dtype."""
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{op}: {name} must be {dtype}, got {tensor.dtype}")


def finite(op: str, **values: float) -> None:
    """Every value is a number that is not infinite."""
    for name, value in values.items():
        if not -float("inf") < value < float("inf"):
            raise ValueError(f"{op}: {name} must be finite, got {value}")


def rows(op: str, **tensors: Tensor) -> None:
    """Every tensor is (rows, elements...) with at least one element a row."""
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or 0 in tensor.shape[1:]:
            raise ValueError(f"{op}: {name} must be (rows, elements...), got {tuple(tensor.shape)}")

"""Moves rows of any dataclass of tensors: problems, states, and what is kept of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")


def take_rows(record: Record, index: Tensor) -> Record:
    """The rows of a record at `index` (R,), in that order.

    Every tensor of the record, and of the records within it, has its rows first, but for the
    fields marked by `deitsec.types.SHARED`; what is no tensor is passed on.
    """
    return _map([record], lambda tensors: tensors[0].index_select(0, index))


def slice_rows(record: Record, start: int, end: int) -> Record:
    """Rows start to end - 1 of a record, as views."""
    return _map([record], lambda tensors: tensors[0][start:end])


def join_rows(records: Sequence[Record]) -> Record:
    """The rows of several records of one kind, one after the other."""
    if len(records) == 1:
        return records[0]
    return _map(records, lambda tensors: torch.cat(list(tensors)))


def _map(records: Sequence[Record], change: Callable[[Sequence[Tensor]], Tensor]) -> Record:
    first: Any = records[0]
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(first):
        value = getattr(first, field.name)
        if value is None:
            continue
        if field.metadata.get("shared"):
            # each record has its own: it may be changed in place
            changed[field.name] = value.clone() if isinstance(value, Tensor) else value
            continue
        values = [getattr(record, field.name) for record in records]
        if isinstance(value, Tensor):
            changed[field.name] = change(values)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = _map(values, change)
    return dataclasses.replace(first, **changed)


def clone_record(record: Record) -> Record:
    """The same values in memory of their own, the shared fields too."""
    first: Any = record
    changed = {
        field.name: value.clone() if isinstance(value, Tensor) else clone_record(value)
        for field in dataclasses.fields(first)
        if isinstance(value := getattr(first, field.name), Tensor)
        or dataclasses.is_dataclass(value)
    }
    return dataclasses.replace(first, **changed)

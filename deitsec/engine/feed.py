"""Brings rows to the device: from tensors, a DataLoader or any iterable, one wave ahead."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.engine.row_batch import join_rows, slice_rows
from deitsec.engine.rows import Rows, check_rows

_NAMES = {
    "images": ("images", "image", "pixel_values", "img"),
    "labels": ("labels", "label"),
    "targets": ("targets", "target"),
    "sample_ids": ("sample_ids", "sample_id", "ids"),
}


def rows_from(attack: Attack, source: Iterable[Any]) -> Iterator[Rows]:
    """The rows of each item of an iterable, checked.

    An item is (images, labels), (images, labels, targets), or a mapping with the names of
    `Engine.run`. Rows without sample ids are numbered in their order.

    Raises:
        TypeError: an item of another kind.
        ValueError: what `check_rows` raises; the message names the item.
    """
    number = 0
    for position, item in enumerate(source):
        parts = _parts(item, position)
        if parts.get("sample_ids") is None:
            parts["sample_ids"] = torch.arange(number, number + parts["images"].shape[:1].numel())
        try:
            rows = check_rows(attack, **parts)
        except (TypeError, ValueError) as error:
            raise type(error)(f"batch {position} of the images: {error}") from None
        number += len(rows.labels)
        # the source may use its memory again for the next item, while rows of this one wait
        yield dataclasses.replace(rows, images=rows.images.clone())


def _parts(item: Any, position: int) -> dict[str, Any]:
    parts: dict[str, Any] = dict.fromkeys(_NAMES)
    if isinstance(item, Mapping):
        for name, spellings in _NAMES.items():
            parts[name] = next((item[s] for s in spellings if s in item), None)
    elif isinstance(item, tuple | list) and 2 <= len(item) <= 3:
        parts.update(zip(_NAMES, item, strict=False))
    if not isinstance(parts["images"], Tensor) or not isinstance(parts["labels"], Tensor):
        raise TypeError(
            f"batch {position} of the images must be (images, labels), (images, labels, targets) "
            f"or a mapping with these names, all tensors; got {_kind(item)}"
        )
    return parts


def _kind(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item)}"
    if isinstance(item, Mapping):
        return f"a mapping with {', '.join(map(repr, item))}"
    return type(item).__name__


def waves(rows: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows in their order, `size` at a time.

    Raises:
        ValueError: images of several shapes, or targets for some only; the message names the item.
    """
    waiting: list[Rows] = []
    first: Rows | None = None
    for position, part in enumerate(rows):
        first = part if first is None else first
        _check_kin(part, first, position)
        waiting.append(part)
        while (count := sum(len(w.labels) for w in waiting)) >= size:
            pool = join_rows(waiting)
            yield slice_rows(pool, 0, size)
            waiting = [slice_rows(pool, size, count)] if count > size else []
    if waiting:
        yield join_rows(waiting)


def _check_kin(part: Rows, first: Rows, position: int) -> None:
    where = f"batch {position} of the images"
    ours, theirs = part.images, first.images
    if (ours.shape[1:], ours.dtype) != (theirs.shape[1:], theirs.dtype):
        raise ValueError(
            f"{where}: all images must have one shape and dtype, got {tuple(theirs.shape[1:])} "
            f"{theirs.dtype} and then {tuple(ours.shape[1:])} {ours.dtype}"
        )
    if (part.targets is None) != (first.targets is None):
        raise ValueError(f"{where}: targets must be given for all images or for none")


def ahead(rows: Iterable[Rows], device: torch.device) -> Iterator[tuple[Rows, Tensor]]:
    """(rows, their images on the device); the next are on their way while one is attacked.

    Copies to a GPU start from pinned memory on a stream of their own. Reading is done here, between
    two waves: a source that is slow to read has workers of its own, as a DataLoader does.
    """
    if device.type != "cuda":
        for wave in rows:
            yield wave, wave.images.to(device)
        return
    stream = torch.cuda.Stream(device)
    coming: tuple[Rows, Tensor, torch.cuda.Event] | None = None
    for wave in rows:
        stream.wait_stream(torch.cuda.current_stream(device))  # where images on a GPU are made
        with torch.cuda.stream(stream):
            host = wave.images.device.type == "cpu"
            source = wave.images.pin_memory() if host else wave.images
            moved = (wave, source.to(device, non_blocking=True), torch.cuda.Event())
            moved[2].record(stream)
        if coming is not None:
            yield _arrived(coming, device)
        coming = moved
    if coming is not None:
        yield _arrived(coming, device)


def _arrived(
    coming: tuple[Rows, Tensor, torch.cuda.Event], device: torch.device
) -> tuple[Rows, Tensor]:
    wave, x, copied = coming
    here = torch.cuda.current_stream(device)
    here.wait_event(copied)
    x.record_stream(here)
    return wave, x

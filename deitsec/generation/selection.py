"""Which rows of a source are attacked."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deitsec.data import ImageSet, balanced_rows, to_float
from deitsec.engine import Engine
from deitsec.engine.guard import attack_mode, calculation
from deitsec.generation.reading import read_rows
from deitsec.shards import UnreadableRow


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Selection:
    """Rows picked from a split.

    Attributes:
        rows: (n,) int64, ascending; None for all rows in their order.
        unreadable: rows that could not be read meanwhile, and are not among them.
    """

    rows: Tensor | None
    unreadable: tuple[UnreadableRow, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """What rows are wanted.

    Attributes:
        rows: how many, for the search to stop early; None for all there are.
        per_class: the first so many of each class, or None.
        only_correct: leave out the rows that a model gets wrong.
        strict: whether a row that cannot be read is an error.
    """

    rows: int | None = None
    per_class: int | None = None
    only_correct: bool = False
    strict: bool = False


def select_rows(
    images: ImageSet, engines: Sequence[Engine], pick: Pick, *, num_classes: int
) -> Selection:
    """Pick rows of a split.

    Args:
        images: the split.
        engines: of the models that must get a row right, where that is asked for; of a fixed batch
            size.
        pick: what is wanted.
        num_classes: of the source.

    Raises:
        DataError: a row cannot be read, and the pick is strict.
        ValueError: a class has too few rows, or none is left.
    """
    if not pick.only_correct:
        if pick.per_class is None:
            return Selection(rows=None)
        return Selection(rows=balanced_rows(images.labels, pick.per_class, num_classes))
    found = _correct_rows(images, engines, pick)
    right = found.rows
    assert right is not None
    if len(right) == 0:
        raise ValueError("no row is left: the models get none of the source's rows right")
    if pick.per_class is None:
        return found
    try:
        places = balanced_rows(images.labels[right], pick.per_class, num_classes)
    except ValueError as error:
        raise ValueError(f"of the rows that the models get right, {error}") from None
    return Selection(rows=right[places], unreadable=found.unreadable)


def _correct_rows(images: ImageSet, engines: Sequence[Engine], pick: Pick) -> Selection:
    """Rows that every model gets right, in their order, until there are enough."""
    found: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    listed: list[UnreadableRow] = []
    models = list({id(engine.model): engine for engine in engines}.values())
    wanted = pick.rows if pick.per_class is None else None
    for rows in torch.arange(len(images)).split(max(_size(engine) for engine in models)):
        pixels, kept, unreadable = read_rows(images, rows, strict=pick.strict)
        listed += unreadable
        rows = rows[kept]
        right = torch.ones(len(rows), dtype=torch.bool)
        for engine in models:
            right &= _predicted(engine, pixels) == images.labels[rows]
        found.append(rows[right])
        if wanted is not None and sum(map(len, found)) >= wanted:
            break
    return Selection(rows=torch.cat(found), unreadable=tuple(listed))


def _size(engine: Engine) -> int:
    assert engine.batch_size != "auto"
    return engine.batch_size


def _predicted(engine: Engine, pixels: Tensor) -> Tensor:
    """(n,) classes, as the attack will see them: of batches of one size, filled up."""
    size, parts = _size(engine), [torch.empty(0, dtype=torch.int64)]
    exact = calculation(engine.device, deterministic=engine.deterministic)
    with attack_mode(engine.model), exact, torch.no_grad():
        for some in pixels.split(size):
            filled = torch.cat([some, some[:1].expand(size - len(some), -1, -1, -1)])
            logits = engine.model(to_float(filled.to(engine.device)))
            parts.append(logits.argmax(1).cpu()[: len(some)])
    return torch.cat(parts)


def pack_selection(rows: Tensor) -> bytes:
    """The bytes of `selection.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, rows.numpy().astype("<i8"), allow_pickle=False)
    return buffer.getvalue()


def unpack_selection(data: bytes) -> Tensor:
    """Read `selection.npy`.

    Raises:
        ValueError: it is broken.
    """
    return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False).astype(np.int64))


def selection_sha256(rows: Tensor) -> str:
    """The hash by which the manifest knows a selection."""
    return hashlib.sha256(pack_selection(rows)).hexdigest()

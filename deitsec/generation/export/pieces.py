"""The rows of a dataset, a bounded number at a time, as what exporters write of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitsec.shards import ShardEntry, ShardError, ShardFolder
from deitsec.shards.shard_rows import IMAGE_COLUMNS, SCALAR_COLUMNS

_PIECE_ROWS = 1024
_PIECE_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Some rows of one shard.

    Attributes:
        entry: the shard.
        rows: (n,) int64 which of its rows they are.
        columns: as of `ShardRows`, `clean_image` only where it is stored.
    """

    entry: ShardEntry
    rows: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]

    @property
    def keys(self) -> list[str]:
        """A name for each row that no other row of the dataset has."""
        return [f"{self.entry.shard:05d}_{row:06d}" for row in self.rows.tolist()]

    @property
    def records(self) -> list[dict[str, Any]]:
        """What is known of each row but its images, plain values; None for no target."""
        names = list(SCALAR_COLUMNS)
        values = zip(*(self.columns[name].tolist() for name in names), strict=True)
        return [
            {"variant": self.entry.variant, **_without_nobody(dict(zip(names, row, strict=True)))}
            for row in values
        ]


def pieces(folder: ShardFolder) -> Iterator[Piece]:
    """All rows of a dataset in their order; a piece is of one shard.

    Raises:
        ShardError: a shard is broken, or a label has no name.
    """
    image_names = IMAGE_COLUMNS if folder.manifest.configuration.clean_images else ("image",)
    size = max(1, min(_PIECE_ROWS, _PIECE_BYTES // math.prod(folder.shape)))
    for place, entry in enumerate(folder.entries):
        start, stop = folder.starts[place : place + 2].tolist()
        for first in range(start, stop, size):
            rows = np.arange(first, min(stop, first + size))
            columns = folder.read(rows, (*image_names, *SCALAR_COLUMNS))
            local = folder.places(rows)[1]
            _check_labels(folder, entry, columns["label"])
            yield Piece(entry=entry, rows=local, columns=columns)


def _check_labels(folder: ShardFolder, entry: ShardEntry, labels: NDArray[Any]) -> None:
    if labels.min() < 0 or labels.max() >= len(folder.class_names):
        raise ShardError(
            f"{folder.path / entry.name} has labels from {labels.min()} to {labels.max()}, and "
            f"there are {len(folder.class_names)} classes: make the shard again"
        )


def _without_nobody(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "target": None if record["target"] == -1 else record["target"]}

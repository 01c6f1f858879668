"""A shard that is read row by row, without reading all of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitsec.shards.plain_pages import plain_pages
from deitsec.shards.shard_error import ShardError
from deitsec.shards.shard_rows import (
    IMAGE_COLUMNS,
    ShardAbout,
    column_values,
    images_of,
    shard_schema,
)

Array = NDArray[Any]


class OpenShard:
    """The columns of a shard.

    The file is mapped into memory: images are copied from it a row at a time, other columns are
    decoded when first asked for. Shards are replaced by renaming, never written to, so that a map
    stays valid.

    Args:
        path: the file.

    Attributes:
        about: what the shard says of itself.
        names: the columns that there are.
        held_bytes: memory of what was decoded; what is mapped belongs to the system.

    Raises:
        ShardError: it is missing, broken, or no shard.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        try:
            # the class memmap makes every view slow
            self._bytes = np.memmap(path, mode="r").view(np.ndarray)
            self._parquet: Any = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._bytes)))
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ShardError(f"{path} cannot be read as Parquet ({reason})") from None
        metadata = self._parquet.metadata
        self.about = ShardAbout.from_metadata(metadata.metadata, str(path))
        self.names: tuple[str, ...] = tuple(metadata.schema.names)
        self._check_schema()
        self._rows = int(metadata.num_rows)
        self.held_bytes = 0
        self._columns: dict[str, Array] = {}
        self._images: dict[str, list[Array]] = {}

    def _check_schema(self) -> None:
        expected = shard_schema(self.about.shape, clean_images="clean_image" in self.names)
        if not self._parquet.schema_arrow.equals(expected, check_metadata=False):
            raise ShardError(
                f"{self._path} has other columns than a shard: {', '.join(self.names)}"
            )

    def __len__(self) -> int:
        """Count the rows."""
        return self._rows

    def column(self, name: str) -> Array:
        """A column that is no image's, (N,).

        Raises:
            ShardError: it cannot be decoded.
        """
        if name not in self._columns:
            self._columns[name] = column_values(self._read(name).column(name), name)
            self.held_bytes += self._columns[name].nbytes
        return self._columns[name]

    def take(self, name: str, rows: Array) -> Array:
        """A copy of some rows of a column; images (n, C, H, W) uint8.

        Args:
            name: of the column.
            rows: (n,) int64, each in [0, N).

        Raises:
            ShardError: the column is missing, or cannot be decoded.
        """
        if name not in IMAGE_COLUMNS:
            return self.column(name)[rows]
        groups = self._groups(name)
        if len(groups) == 1:
            return _copied(groups[0], rows).reshape(-1, *self.about.shape)
        out = np.empty((len(rows), groups[0].shape[1] if groups else 0), dtype=np.uint8)
        start = 0
        for group in groups:
            here = np.flatnonzero((rows >= start) & (rows < start + len(group)))
            out[here] = group[rows[here] - start]
            start += len(group)
        return out.reshape(-1, *self.about.shape)

    def _groups(self, name: str) -> Sequence[Array]:
        """The images of each row group, (rows, C * H * W) uint8."""
        if name not in self._images:
            if name not in self.names:
                raise ShardError(f"{self._path} holds no column {name}")
            groups = plain_pages(self._bytes, self._parquet.metadata, name)
            if groups is None:  # written by another program
                decoded = images_of(self._read(name), name, self.about.shape)
                groups = [decoded.reshape(len(decoded), -1)]
                self.held_bytes += decoded.nbytes
            self._images[name] = groups
        return self._images[name]

    def _read(self, name: str) -> Any:
        import pyarrow as pa

        try:
            return self._parquet.read(columns=[name], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ShardError(f"{self._path}: column {name} is broken ({reason})") from None


def _copied(values: Array, rows: Array) -> Array:
    """Rows of a matrix; in one piece where they follow each other."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return values[rows[0] : rows[0] + len(rows)].copy()
    return values[rows]

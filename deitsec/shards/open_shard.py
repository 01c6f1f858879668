"""A shard that is read row by row, without reading all of it."""

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from deitsec.shards.plain_pages import plain_pages
from deitsec.shards.shard_error import ShardError, reason
from deitsec.shards.shard_rows import (
    IMAGE_COLUMNS,
    ShardAbout,
    check_schema,
    column_values,
    images_of,
)

Array = NDArray[Any]
_FEW = 4  # rows, for which looking for pieces would take longer than reading each


class OpenShard:
    """The columns of a shard.

    Images are read where they lie, a row at a time. What is known of the file is small and stays
    when it is closed: the next row opens it again without parsing anything. A shard is never
    written to, and replaced only by one of the same rows, so that what is known stays true. Not for
    several threads at once; processes may share it by forking.

    Args:
        path: the file.

    Attributes:
        number: of the shard, as it says.
        shape: (C, H, W) of its images.
        held_bytes: memory of images that had to be decoded; none of our own files has to.

    Raises:
        ShardError: it is missing, broken, or no shard.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._parquet: Any = None
        self._decoded: dict[str, Array] = {}
        # by column of images; None where they have to be decoded
        self._pages: dict[str, Array | None] = {}
        self.held_bytes = 0
        parquet = self._opened_parquet()
        about = ShardAbout.from_metadata(parquet.metadata.metadata, str(path))
        check_schema(parquet.schema_arrow, about.shape, str(path))
        self.number, self.shape = about.shard, about.shape
        self._rows = int(parquet.metadata.num_rows)

    def __len__(self) -> int:
        """Count the rows."""
        return self._rows

    def close(self) -> None:
        """Close the file, and forget what was decoded."""
        if self._file is not None:
            self._file.close()
        self._file = self._parquet = None
        self._decoded.clear()
        self.held_bytes = 0

    def column(self, name: str) -> Array:
        """A column that is no image's, (N,), decoded each time.

        Raises:
            ShardError: it cannot be decoded.
        """
        return column_values(self._decode(name).column(name), name)

    def take(self, name: str, rows: Array) -> Array:
        """A copy of some images, (n, C, H, W) uint8.

        Args:
            name: of the column.
            rows: (n,) int64, each in [0, N).

        Raises:
            ShardError: the column is missing, or cannot be read.
        """
        out = np.empty((len(rows), *self.shape), np.uint8)
        self.copy(name, rows, out, np.arange(len(rows)))
        return out

    def copy(self, name: str, rows: Array, out: Array, places: Array) -> None:
        """Copy some images to places of an array.

        Args:
            name: of the column.
            rows: (n,) int64, each in [0, N).
            out: (m, C, H, W) uint8, contiguous.
            places: (n,) int64 of `out`.

        Raises:
            ShardError: the column is missing, or cannot be read.
        """
        pages = self._found_pages(name)
        if pages is None:
            out[places] = self._decoded_images(name)[rows]
            return
        if not len(rows):
            return
        flat = out.reshape(len(out), -1)
        width = flat.shape[1]
        if len(pages) == 1 and len(rows) <= _FEW:
            start = int(pages[0, 1])
            for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                self._read_into(start + row * width, flat[place])
            return
        if len(pages) == 1:
            starts = pages[0, 1] + rows * width
        else:
            group = np.searchsorted(pages[:, 0], rows, side="right") - 1
            starts = pages[group, 1] + (rows - pages[group, 0]) * width
        # rows that follow each other, to places that do, are one piece
        broken = (np.diff(starts) != width) | (np.diff(places) != 1)
        edges = [0, *(np.flatnonzero(broken) + 1).tolist(), len(rows)]
        for first, stop in pairwise(edges):
            place = int(places[first])
            self._read_into(int(starts[first]), flat[place : place + stop - first])

    def _read_into(self, start: int, out: Array) -> None:
        """Fill an array from a place of the file."""
        piece = out.reshape(-1)
        try:
            file = self._opened_file()
            while len(piece):
                count = _read_at(file, start, piece)
                if not count:
                    raise ShardError(f"{self._path} has lost its end")
                start, piece = start + count, piece[count:]
        except OSError as error:
            raise ShardError(f"{self._path} cannot be read ({error.strerror})") from None

    def _found_pages(self, name: str) -> Array | None:
        """Where a column of images lies, or None where it has to be decoded."""
        if name not in self._pages:
            metadata = self._opened_parquet().metadata
            if name not in IMAGE_COLUMNS or name not in metadata.schema.names:
                raise ShardError(f"{self._path} holds no column {name}")
            file = cast(BinaryIO, self._opened_file())
            self._pages[name] = plain_pages(file, metadata, name)
        return self._pages[name]

    def _decoded_images(self, name: str) -> Array:
        """The images of a file that another program wrote, (N, C, H, W)."""
        if name not in self._decoded:
            self._decoded[name] = images_of(self._decode(name), name, self.shape)
            self.held_bytes += self._decoded[name].nbytes
        return self._decoded[name]

    def _decode(self, name: str) -> Any:
        import pyarrow as pa

        try:
            return self._opened_parquet().read(columns=[name], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{self._path}: column {name} is broken ({reason(error)})") from None

    def _opened_file(self) -> io.FileIO:
        if self._file is None:
            self._file = io.FileIO(self._path)
        return self._file

    def _opened_parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._parquet is None:
            try:
                self._parquet = pq.ParquetFile(self._path)
            except (OSError, ValueError, pa.ArrowException) as error:
                self.close()
                raise ShardError(
                    f"{self._path} cannot be read as Parquet ({reason(error)})"
                ) from None
        return self._parquet


def _read_at(file: io.FileIO, start: int, out: Array) -> int:
    """Read up to so many bytes, without the file's position where processes may share it."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [out.data], start)
    file.seek(start)  # Windows, which knows no fork
    return file.readinto(out.data) or 0

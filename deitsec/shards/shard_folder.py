"""The rows of a dataset, read by their number out of as many shards as there are."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitsec.shards.extra import require_extra
from deitsec.shards.layout import shard_name
from deitsec.shards.manifest import Manifest, ShardEntry, read_manifest
from deitsec.shards.open_shard import OpenShard
from deitsec.shards.shard_error import ShardError
from deitsec.shards.shard_rows import IMAGE_COLUMNS, column_dtype

Array = NDArray[Any]
_OPEN_SHARDS = 192  # each takes up to two file descriptors, of 1024 that a process usually has
_HELD_BYTES = 1 << 28


class ShardFolder:
    """An adversarial dataset on disk.

    Rows are numbered through all shards in the order of the shards' numbers. Opening reads the
    manifest and lists the folder; shards are opened when a row of them is asked for, and the files
    last used stay open. Where the rows of a shard lie stays known, and so do the values of columns
    that were asked for, but for images: some bytes a row. It may be shared by threads, and sent to
    other processes.

    Args:
        path: the folder.
        variant: the rows of one attack on one model only, by its place in the manifest.
        only_success: the rows only whose goal is reached.
        incomplete: whether a run that has not ended is taken as far as it is, too.

    Attributes:
        path: the folder.
        manifest: what it is made of.
        entries: the shards that take part.
        starts: (shards + 1,) int64 number of each shard's first row, and of all rows.

    Raises:
        ImportError: pyarrow is not installed.
        ShardError: the manifest is missing or broken, a shard is missing or of another size, the
            dataset is not complete, or there is no row.
        ValueError: there is no such variant.
    """

    def __init__(
        self,
        path: Path,
        *,
        variant: int | None = None,
        only_success: bool = False,
        incomplete: bool = False,
    ) -> None:
        require_extra("shards", "pyarrow")
        self.path = path
        self.manifest = read_manifest(path)
        self.only_success = only_success
        _check(path, self.manifest, incomplete=incomplete)
        variants = len(self.manifest.configuration.variants)
        if variant is not None and not 0 <= variant < variants:
            raise ValueError(f"variant must be in [0, {variants}), got {variant}")
        self.entries = tuple(
            entry for entry in self.manifest.shards if variant in (None, entry.variant)
        )
        counts = [entry.successes if only_success else entry.rows for entry in self.entries]
        self.starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
        if len(self) == 0:
            which = "successful attack" if only_success else "row"
            raise ShardError(f"{path} holds no {which}: generate more, or ask for others")
        self._prepare()

    def _prepare(self) -> None:
        self._shards: dict[int, OpenShard] = {}
        self._open: OrderedDict[int, OpenShard] = OrderedDict()  # of these, the last used last
        self._columns: dict[str, _Column] = {}
        self._successes: dict[int, Array] = {}
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Open files again when they are needed."""
        vars(self).update(state)
        self._prepare()

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.manifest.configuration.source.shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        return self.manifest.configuration.source.class_names

    def read(self, rows: Array, names: Sequence[str]) -> dict[str, Array]:
        """Copies of some rows.

        Args:
            rows: (n,) int64, each in [0, N), in any order.
            names: columns of `ShardRows`.

        Returns:
            The columns, (n,) or, for images, (n, C, H, W) uint8.

        Raises:
            ShardError: a shard is broken.
            ValueError: there is no such column, or no such row.
        """
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise ValueError(f"rows must be in [0, {len(self)})")
        # a shard without rows starts where the next one does: `right` passes over it
        places = np.searchsorted(self.starts, rows, side="right") - 1
        with self._lock:
            return {
                name: self._images(name, rows, places)
                if name in IMAGE_COLUMNS
                else self._known(name, np.unique(places))[rows]
                for name in names
            }

    def column(self, name: str) -> Array:
        """A column that is no image's, of all rows.

        Raises:
            ShardError: a shard is broken.
        """
        with self._lock:
            return self._known(name, np.flatnonzero(np.diff(self.starts))).copy()

    def places(self, rows: Array) -> tuple[Array, Array]:
        """The shard of each row by its number, and the row in it.

        Raises:
            ShardError: a shard is broken.
        """
        places = np.searchsorted(self.starts, rows, side="right") - 1
        numbers = np.array([entry.shard for entry in self.entries])[places]
        local = rows - self.starts[places]
        if self.only_success:
            for place in np.unique(places).tolist():
                here = places == place
                local[here] = self._local(place, rows[here])
        return numbers, local

    def _known(self, name: str, places: Array) -> Array:
        """A column that is no image's, of all rows; its values are there for some shards."""
        if name not in self._columns:
            values = np.empty(len(self), column_dtype(name))
            self._columns[name] = _Column(values, np.zeros(len(self.entries), np.bool_))
        column = self._columns[name]
        for place in places[~column.known[places]].tolist():
            start, stop = self.starts[place : place + 2]
            local = self._local(place, np.arange(start, stop))
            column.values[start:stop] = self._shard(place).column(name)[local]
            column.known[place] = True
        return column.values

    def _images(self, name: str, rows: Array, places: Array) -> Array:
        """Copies of images, (n, C, H, W) uint8."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        order = np.argsort(rows, kind="stable")  # each shard once
        shards, edges = np.unique(places[order], return_index=True)
        stops = np.append(edges, len(order))[1:].tolist()
        for place, first, stop in zip(shards.tolist(), edges.tolist(), stops, strict=True):
            here = order[first:stop]
            self._shard(place).copy(name, self._local(place, rows[here]), out, here)
        return out

    def _local(self, place: int, rows: Array) -> Array:
        """Rows of the shard, out of rows of what is taken of it."""
        local = rows - self.starts[place]
        if not self.only_success:
            return local
        with self._lock:
            if place not in self._successes:
                self._successes[place] = self._found_successes(place)
            return self._successes[place][local]

    def _found_successes(self, place: int) -> Array:
        successes = np.flatnonzero(self._shard(place).column("success"))
        if len(successes) != self.entries[place].successes:
            raise ShardError(
                f"{self.path / self.entries[place].name} holds {len(successes)} successes, and the "
                f"manifest says {self.entries[place].successes}: {_MEND}"
            )
        return successes

    def _shard(self, place: int) -> OpenShard:
        if place in self._open:
            self._open.move_to_end(place)
            return self._open[place]
        if place not in self._shards:
            self._shards[place] = self._opened(self.entries[place])
        shard = self._open[place] = self._shards[place]
        held = sum(other.held_bytes for other in self._open.values())
        while len(self._open) > 1 and (len(self._open) > _OPEN_SHARDS or held > _HELD_BYTES):
            _, last = self._open.popitem(last=False)
            held -= last.held_bytes
            last.close()
        return shard

    def _opened(self, entry: ShardEntry) -> OpenShard:
        path = self.path / entry.name
        try:
            shard = OpenShard(path)
        except ShardError as error:
            raise ShardError(f"{error}: {_MEND}") from None
        found = (shard.number, len(shard), shard.shape)
        if found != (entry.shard, entry.rows, self.shape):
            raise ShardError(
                f"{path} is shard {found[0]} of {found[1]} rows {found[2]}, and the manifest says "
                f"{entry.shard}, {entry.rows} rows {self.shape}: {_MEND}"
            )
        return shard


@dataclass(frozen=True, slots=True)
class _Column:
    """Values of all rows, and the shards whose values were read."""

    values: Array
    known: Array


_MEND = "find what is broken by `deitsec generate verify DIR`, and mend it with --repair"


def _check(path: Path, manifest: Manifest, *, incomplete: bool) -> None:
    """Refuse a dataset of which shards are missing or cut short."""
    if not manifest.complete and not incomplete:
        raise ShardError(
            f"{path} is not complete, {len(manifest.shards)} shards are there: what it holds would "
            "change when the run goes on; end it by `deitsec generate` with --resume"
        )
    with os.scandir(path) as files:
        sizes = {file.name: file.stat().st_size for file in files if file.is_file()}
    broken = [entry for entry in manifest.shards if sizes.get(entry.name) != entry.bytes]
    if broken:
        first = shard_name(broken[0].shard)
        what = (
            f"has {sizes[first]} bytes and should have {broken[0].bytes}"
            if first in sizes
            else "is missing"
        )
        more = f" ({len(broken) - 1} more shards are at fault)" if len(broken) > 1 else ""
        raise ShardError(f"{path / first} {what}{more}: {_MEND}")

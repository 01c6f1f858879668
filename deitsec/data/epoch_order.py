"""The order of the rows of an epoch: shuffled, shared out exactly, and found again at any place."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_PIECE_ROWS = 1 << 14  # where nothing is shuffled


def share(total: int, part: int, parts: int) -> tuple[int, int]:
    """The places [start, stop) of one of several readers; they differ by one place at most."""
    return total * part // parts, total * (part + 1) // parts


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochOrder:
    """A permutation of all rows, computed a window of shards at a time.

    Shards are shuffled, then the rows of as many shards as hold `shuffle_rows` rows, so that few
    shards are read at a time. Nothing of it hangs on who reads: readers take ranges of places.

    Attributes:
        starts: (shards + 1,) int64 number of each shard's first row, and of all rows.
        shuffle_rows: rows that are shuffled together; 0 for the order of the rows themselves.
        seed, epoch: of the draws, >= 0.
    """

    starts: Array
    shuffle_rows: int
    seed: int
    epoch: int

    def rows(self, start: int, stop: int) -> Iterator[Array]:
        """The rows at the places [start, stop), in pieces, (n,) int64."""
        if not self.shuffle_rows:
            for first in range(start, stop, _PIECE_ROWS):
                yield np.arange(first, min(first + _PIECE_ROWS, stop))
            return
        firsts = self._window_places
        window = int(np.searchsorted(firsts, start, side="right")) - 1
        while start < stop:
            first, end = int(firsts[window]), int(firsts[window + 1])
            yield self._window(window)[start - first : stop - first]
            start, window = end, window + 1

    @cached_property
    def _shards(self) -> Array:
        """The shards that hold a row, shuffled."""
        filled = np.flatnonzero(np.diff(self.starts))
        return filled[self._draw(0).permutation(len(filled))]

    @cached_property
    def _window_shards(self) -> Array:
        """Where in `_shards` each window begins, and their number."""
        before = np.cumsum(np.diff(self.starts)[self._shards]) - np.diff(self.starts)[self._shards]
        _, firsts = np.unique(before // self.shuffle_rows, return_index=True)
        return np.append(firsts, len(self._shards))

    @cached_property
    def _window_places(self) -> Array:
        """The place at which each window begins, and the number of places."""
        places = np.append(0, np.cumsum(np.diff(self.starts)[self._shards]))
        return places[self._window_shards]

    def _window(self, window: int) -> Array:
        """The rows of a window in their order."""
        begin, end = self._window_shards[window : window + 2]
        pieces = [np.arange(*self.starts[shard : shard + 2]) for shard in self._shards[begin:end]]
        return self._draw(1 + window).permutation(np.concatenate(pieces))

    def _draw(self, what: int) -> np.random.Generator:
        entropy = np.random.SeedSequence([self.seed, self.epoch, what])
        return np.random.Generator(np.random.Philox(entropy))

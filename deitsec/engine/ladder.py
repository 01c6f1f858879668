"""The batch sizes that a run uses: a few, so that graphs and compiled models are used again."""

from dataclasses import dataclass

# shares of the largest batch; eight sizes, since torch.compile keeps eight variants of a model
_SHARES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
# each size costs a compilation, of up to minutes on a CPU
_COMPILED_SHARES = (1, 1 / 4)
# rows are moved only where at least an eighth of the work falls away: nothing thrashes
_WORTH = 7 / 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """Batch sizes, descending.

    Attributes:
        sizes: at most 8.
        fixed: whether every batch has one of the sizes, padded where rows are missing; else a
            batch that was never compacted has the size that it has.
    """

    sizes: tuple[int, ...]
    fixed: bool = False

    @property
    def top(self) -> int:
        """The largest batch."""
        return self.sizes[0]

    def fit(self, rows: int) -> int:
        """The smallest size that holds `rows`."""
        return min(size for size in self.sizes if size >= rows)

    def start(self, rows: int) -> list[tuple[int, int]]:
        """(rows, size) of each batch that `rows` begin in."""
        if self.fixed:
            return self.pack(rows)
        batches = -(-rows // self.top)
        return [
            (share, share)
            for i in range(batches)
            if (share := rows * (i + 1) // batches - rows * i // batches)
        ]

    def pack(self, rows: int) -> list[tuple[int, int]]:
        """(rows, size) of the fewest slots that hold `rows`: full batches and a tail."""
        full, tail = divmod(rows, self.top)
        return [(self.top, self.top)] * full + ([(tail, self.fit(tail))] if tail else [])

    def worth(self, active: int, slots: int) -> bool:
        """Whether packing `active` rows saves enough of `slots` to be worth the moving."""
        return sum(size for _, size in self.pack(active)) <= _WORTH * slots


def make_ladder(top: int, *, deterministic: bool, compiled: bool, graphs: bool) -> Ladder:
    """The ladder below a largest batch."""
    if deterministic:
        return Ladder(sizes=(top,), fixed=True)
    shares = _COMPILED_SHARES if compiled else _SHARES
    sizes = dict.fromkeys(max(1, round(top * share)) for share in shares)
    return Ladder(sizes=tuple(sizes), fixed=compiled or graphs)

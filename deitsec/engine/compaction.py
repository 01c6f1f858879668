"""Rows that are done leave, and those that are left close up into fewer and smaller batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deitsec.engine.batch import Batch
from deitsec.engine.ladder import Ladder
from deitsec.engine.row_batch import join_rows, slice_rows, take_rows


class Compaction:
    """Watches how many rows are left, and repacks where that is worth it.

    On a GPU the count is copied while the next steps run and read when it has arrived, so it may be
    that of the round before; rows never come back, so it is at most too high.

    A success ends its own try and those of higher number; one of lower number goes on, so that what
    is kept of a row is the same whichever tries ran side by side.

    Args:
        ladder: the sizes that batches may have.
        leave: told a batch and which of its rows (R,) are done.
        rows: rows of the wave.
        tries: tries of each row.
        device: where they are.
        frozen_leave: whether rows that stopped at a NaN leave too; not where the exact model still
            has to judge them.
    """

    def __init__(
        self,
        ladder: Ladder,
        leave: Callable[[Batch, Tensor], None],
        rows: int,
        tries: int,
        device: torch.device,
        *,
        frozen_leave: bool,
    ) -> None:
        self.ladder = ladder
        self.leave = leave
        self.tries = tries
        self.frozen_leave = frozen_leave
        self.fallen = torch.zeros(rows * tries, dtype=torch.int32, device=device)
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None

    def pack(self, batches: list[Batch]) -> list[Batch]:
        """The batches to go on with."""
        for batch in batches:
            place = batch.rows * self.tries + batch.variants
            self.fallen.index_add_(0, place, (batch.kept.confirmed & batch.real).int())
        first = self._first_fallen()
        active = [self._goes_on(batch, first) for batch in batches]
        left = self._count(active)
        if left is None or not self.ladder.worth(left, sum(map(len, batches))):
            return batches
        self._arriving = None
        going: list[Batch] = []
        for batch, stays in zip(batches, active, strict=True):
            self.leave(batch, (batch.real & ~stays).nonzero()[:, 0])
            going.append(take_rows(batch, stays.nonzero()[:, 0]))
        return repack(join_rows(going), self.ladder)

    def _goes_on(self, batch: Batch, first: Tensor) -> Tensor:
        kept = batch.kept
        going = batch.real & ~kept.confirmed & (batch.variants < first[batch.rows])
        if batch.state.done is not None:
            going = going & ~batch.state.done
        return going & kept.finite if self.frozen_leave else going

    def _first_fallen(self) -> Tensor:
        """(N,) the lowest number of a try that succeeded; the number of tries where none did."""
        number = torch.arange(self.tries, device=self.fallen.device)
        fallen = self.fallen.view(-1, self.tries) > 0
        return torch.where(fallen, number, self.tries).amin(1)

    def _count(self, active: Sequence[Tensor]) -> int | None:
        """How many rows are left, as far as it is known without waiting."""
        total = torch.stack([stays.sum() for stays in active]).sum()
        if total.device.type != "cuda":
            return int(total)
        known = None
        if self._arriving is not None:
            count, arrived = self._arriving
            if not arrived.query():
                return None
            known = int(count)
        count = torch.empty((), dtype=total.dtype, pin_memory=True)
        count.copy_(total, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(total.device))
        self._arriving = (count, arrived)
        return known


def repack(pool: Batch, ladder: Ladder) -> list[Batch]:
    """The rows of a batch in as few slots as the ladder allows; missing rows are filled up."""
    batches: list[Batch] = []
    start = 0
    for rows, size in ladder.pack(len(pool)):
        batch = slice_rows(pool, start, start + rows)
        if size > rows:
            place = torch.arange(size, device=pool.rows.device)
            batch = take_rows(batch, place % rows)
            batch.real = place < rows
        batches.append(batch)
        start += rows
    return batches

"""Reading the rows that are attacked; those that cannot be read are left out and listed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from deitsec.data import DataError, ImageSet
from deitsec.generation.fetching import check_at_hand, plain_reason
from deitsec.generation.plan import Job
from deitsec.generation.workload import Workload
from deitsec.shards import UnreadableRow

_TOGETHER = 256  # where one cannot be read, so many are read one by one


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The rows that a job attacks, as they were read.

    Attributes:
        images: (n, C, H, W) uint8 on the CPU.
        rows: (n,) int64 rows of the source.
        sample_ids: (n,) int64.
        labels: (n,) int64.
        unreadable: rows that are missing.
    """

    images: Tensor
    rows: Tensor
    sample_ids: Tensor
    labels: Tensor
    unreadable: tuple[UnreadableRow, ...]

    def take(self, which: Tensor) -> Self:
        """The rows where `which`, (n,) bool, holds; itself where that is all of them."""
        if bool(which.all()):
            return self
        names = ("images", "rows", "sample_ids", "labels")
        return dataclasses.replace(self, **{name: getattr(self, name)[which] for name in names})


def read_block(work: Workload, job: Job, stopped: Callable[[], bool] = lambda: False) -> Block:
    """Read the images of a job.

    Args:
        work: the source and the plan.
        job: which rows.
        stopped: asked now and then; where it holds, nobody wants the rows any more.

    Raises:
        DataError: the data is not at hand, or a row cannot be decoded and the run is strict.
        InterruptedError: `stopped` holds.
    """
    rows, ids = work.plan.rows_of(job)
    images, kept, unreadable = read_rows(work.images, rows, strict=work.strict, stopped=stopped)
    rows, ids = rows[kept], ids[kept]
    labels = work.images.labels[rows]
    return Block(images=images, rows=rows, sample_ids=ids, labels=labels, unreadable=unreadable)


def read_rows(
    images: ImageSet, rows: Tensor, *, strict: bool, stopped: Callable[[], bool] = lambda: False
) -> tuple[Tensor, Tensor, tuple[UnreadableRow, ...]]:
    """Read rows, (n,) int64, a few at a time.

    Only rows whose content is at fault are left out: a disk or memory that is missing for a moment
    must not lose them for good.

    Returns:
        (k, C, H, W) uint8 images, (n,) bool which rows they are, and the others with the reason.

    Raises:
        DataError: the data is not at hand, or a row cannot be decoded and `strict` is set.
        InterruptedError: `stopped` holds.
    """
    found = torch.empty((len(rows), *images.shape), dtype=torch.uint8)
    kept = torch.ones(len(rows), dtype=torch.bool)
    reasons: dict[int, str] = {}
    for start in range(0, len(rows), _TOGETHER):
        if stopped():
            raise InterruptedError("nobody wants the rows any more")
        some = slice(start, start + _TOGETHER)
        try:
            found[some] = images.images(rows[some])
            continue
        except DataError as error:
            check_at_hand(error)
            if strict:
                raise
        _read_singly(images, rows[some], found[some], kept[some], reasons)
    unreadable = tuple(UnreadableRow(row=row, reason=why) for row, why in reasons.items())
    return (found[kept] if unreadable else found), kept, unreadable


def _read_singly(
    images: ImageSet, rows: Tensor, found: Tensor, kept: Tensor, reasons: dict[int, str]
) -> None:
    """Read into `found` what can be read, and note what cannot."""
    for place, row in enumerate(rows.tolist()):
        try:
            found[place] = images.images(torch.tensor([row]))[0]
        except DataError as error:
            check_at_hand(error)
            kept[place] = False
            reasons[row] = plain_reason(error, images)

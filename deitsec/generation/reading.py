"""Reading the rows that are attacked; those that cannot be read are left out and listed."""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from deitsec.data import DataError, ImageSet
from deitsec.generation.plan import Job
from deitsec.generation.workload import Workload
from deitsec.shards import UnreadableRow


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


def read_block(work: Workload, job: Job) -> Block:
    """Read the images of a job.

    Raises:
        DataError: a row cannot be read, and the run is strict.
    """
    rows, ids = work.plan.rows_of(job)
    images, kept, unreadable = read_rows(work.images, rows, strict=work.strict)
    rows, ids = rows[kept], ids[kept]
    labels = work.images.labels[rows]
    return Block(images=images, rows=rows, sample_ids=ids, labels=labels, unreadable=unreadable)


def read_rows(
    images: ImageSet, rows: Tensor, *, strict: bool
) -> tuple[Tensor, Tensor, tuple[UnreadableRow, ...]]:
    """Read rows, (n,) int64.

    Returns:
        (k, C, H, W) uint8 images, (n,) bool which rows they are, and the others with the reason.

    Raises:
        DataError: a row cannot be read, and `strict` is set.
    """
    try:
        return images.images(rows), torch.ones(len(rows), dtype=torch.bool), ()
    except DataError:
        if strict:
            raise
    found: list[Tensor] = [torch.empty((0, *images.shape), dtype=torch.uint8)]
    reasons: dict[int, str] = {}
    for row in rows.tolist():
        try:
            found.append(images.images(torch.tensor([row])))
        except DataError as error:
            reasons[row] = str(error)
    unreadable = tuple(UnreadableRow(row=row, reason=why) for row, why in reasons.items())
    kept = ~torch.isin(rows, torch.tensor(list(reasons), dtype=torch.int64))
    return torch.cat(found), kept, unreadable

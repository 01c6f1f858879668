"""Which rows go into which shard: arithmetic, whatever the number of rows."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from deitsec.shards import Configuration

MOST_IDS = 1 << 48  # sample ids lie below: see `Engine.run`


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One shard to make.

    Attributes:
        shard: its number.
        variant: the index of its attack and model.
        start, stop: its rows of the plan.
    """

    shard: int
    variant: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The rows of a dataset, cut into shards.

    Row r of the plan is row `r % n` of the n rows picked from the source, in its `r // n`-th turn.
    The number by which random draws are made is that of source row and turn, so it hangs neither on
    the size of the shards nor on what else was picked. The shards of one block of rows, one for
    each variant, follow each other, so that a block is read once.

    Attributes:
        rows: of each variant, >= 1.
        shard_rows: of a shard, >= 1.
        variants: how many attacks and models, >= 1.
        source_rows: of the source's split.
        selection: (n,) int64 rows picked, on the CPU; None for all of them in their order.

    Raises:
        ValueError: a count below 1, or more turns than there are sample ids for.
    """

    rows: int
    shard_rows: int
    variants: int
    source_rows: int
    selection: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("rows", "shard_rows", "variants", "source_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        turns = -(-self.rows // self.picked)
        if turns * self.source_rows > MOST_IDS:
            raise ValueError(
                f"rows must take the source at most {MOST_IDS // self.source_rows} times, got "
                f"{self.rows} rows of {self.picked}: sample ids have {MOST_IDS.bit_length() - 1} "
                "bits"
            )

    @classmethod
    def of(cls, configuration: Configuration, selection: Tensor | None) -> Self:
        """The plan of a dataset; see the class for what is raised."""
        return cls(
            rows=configuration.plan.rows,
            shard_rows=configuration.plan.shard_rows,
            variants=len(configuration.variants),
            source_rows=configuration.source.rows,
            selection=selection,
        )

    @property
    def picked(self) -> int:
        """Rows of the source that take part."""
        return self.source_rows if self.selection is None else len(self.selection)

    @property
    def blocks(self) -> int:
        """Shards of one variant."""
        return -(-self.rows // self.shard_rows)

    @property
    def shards(self) -> int:
        """Shards of all variants."""
        return self.blocks * self.variants

    def job(self, shard: int) -> Job:
        """The job of a shard.

        Raises:
            ValueError: there is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard must be in [0, {self.shards}), got {shard}")
        block, variant = divmod(shard, self.variants)
        start = block * self.shard_rows
        stop = min(start + self.shard_rows, self.rows)
        return Job(shard=shard, variant=variant, start=start, stop=stop)

    def rows_of(self, job: Job) -> tuple[Tensor, Tensor]:
        """Rows of the source and sample ids of a job, (n,) int64 each."""
        index = torch.arange(job.start, job.stop)
        turn, place = index // self.picked, index % self.picked
        rows = place if self.selection is None else self.selection[place]
        return rows, rows + turn * self.source_rows

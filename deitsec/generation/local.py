"""Makes shards in this process: reading, attacking and writing overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deitsec.generation.crafting import Crafted, craft
from deitsec.generation.plan import Job
from deitsec.generation.reading import Block, read_block
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry, write_shard

_WAITING = 2  # shards that wait to be written: more than one only where the disk is slow
RowTick = Callable[[Job, int], None]


def produce(
    work: Workload, jobs: Iterable[Job], folder: Path, tick: RowTick | None = None
) -> Iterator[ShardEntry]:
    """Make the shards of some jobs, in their order.

    While a shard is attacked the rows of the next are read, and the one before is encoded, read
    back, written and synced, each by a thread of its own. At most five shards are in memory.

    Args:
        work: what is attacked, and how.
        jobs: taken one ahead.
        folder: where the shards go.
        tick: told how many rows of a job are done, from this thread.

    Yields:
        An entry for each shard that is under its final name.

    Raises:
        DataError: a row cannot be read, and the run is strict.
        OSError: a shard cannot be written.
    """
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deitsec-read")
    writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deitsec-write")
    waiting: deque[Future[ShardEntry]] = deque()
    try:
        for job, block in _read_ahead(work, jobs, reader):
            crafted = craft(work, job, block, None if tick is None else _told(tick, job))
            waiting.append(writer.submit(_write, work, job, crafted, folder))
            while waiting and (len(waiting) > _WAITING or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Reading:
    job: Job
    block: Future[Block]


def _read_ahead(
    work: Workload, jobs: Iterable[Job], reader: ThreadPoolExecutor
) -> Iterator[tuple[Job, Block]]:
    """Blocks of jobs, the next one on its way; a block of several variants is read once."""
    coming: _Reading | None = None
    for job in jobs:
        same = coming is not None and coming.job.start == job.start
        block = coming.block if coming and same else reader.submit(read_block, work, job)
        following = _Reading(job, block)
        if coming is not None:
            yield coming.job, coming.block.result()
        coming = following
    if coming is not None:
        yield coming.job, coming.block.result()


def _told(tick: RowTick, job: Job) -> Callable[[int], None]:
    return lambda done: tick(job, done)


def _write(work: Workload, job: Job, crafted: Crafted, folder: Path) -> ShardEntry:
    rows = crafted.rows
    sha256, size = write_shard(folder, rows, work.about(job, crafted.unreadable))
    return ShardEntry(
        shard=job.shard,
        variant=job.variant,
        rows=len(rows),
        sha256=sha256,
        bytes=size,
        successes=int(rows.success.sum()),
        correct=int((rows.clean_prediction == rows.label).sum()),
        seconds=crafted.seconds,
        unreadable=crafted.unreadable,
    )

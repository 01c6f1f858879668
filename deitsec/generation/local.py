"""Makes shards in this process: reading, attacking and writing overlap."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from deitsec.generation.crafting import Crafted, craft
from deitsec.generation.plan import Job
from deitsec.generation.reading import Block, read_block
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry, write_shard

_WAITING = 2  # shards that wait to be written: more than one only where the disk is slow
_WAITING_BYTES = 1 << 27  # of their images; a larger shard is written while one is attacked
RowTick = Callable[[Job, int], None]


def produce(
    work: Workload, jobs: Iterable[Job], folder: Path, tick: RowTick | None = None
) -> Generator[ShardEntry]:
    """Make the shards of some jobs, in their order.

    While a shard is attacked the rows of the next are read, and the one before is encoded, read
    back, written and synced, each by a thread of its own. At most five shards are in memory, of
    large ones four; writing one takes some 150 MB beside it at most, as it is encoded and read back
    in pieces. Close it where it is left early: what was attacked is written then, and the threads
    end.

    Args:
        work: what is attacked, and how.
        jobs: taken one ahead.
        folder: where the shards go.
        tick: told how many rows of a job are done, from this thread.

    Yields:
        An entry for each shard that is under its final name.

    Raises:
        DataError: a row cannot be read, and the run is strict.
        MemoryError: a batch does not fit.
        OSError: a shard cannot be written.
    """
    reader, writer = _helper("deitsec-read"), _helper("deitsec-write")
    waiting: deque[Future[ShardEntry]] = deque()
    ended = threading.Event()

    def told(job: Job, rows: int) -> None:
        if waiting and waiting[0].done():
            waiting[0].result()  # a full disk ends the run now, not when the shard is attacked
        if tick is not None:
            tick(job, rows)

    try:
        for job, block in _read_ahead(work, jobs, reader, ended):
            crafted = craft(work, job, block, lambda rows, job=job: told(job, rows))
            most = max(1, min(_WAITING, _WAITING_BYTES // max(1, crafted.rows.image.nbytes)))
            waiting.append(writer.submit(_write, work, job, crafted, folder))
            del crafted, block
            while waiting and (len(waiting) > most or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        ended.set()
        reader.shutdown(cancel_futures=True)
        writer.shutdown()


def _helper(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=_keep_to_one)


def _keep_to_one() -> None:
    """Keep this thread's tensor operations to itself.

    A pool of OpenMP threads of its own would make more of them than there are cores, and then
    those of the attack go to sleep between any two operations: a fifth of its speed (2 cores).
    """
    torch.get_num_threads()  # PyTorch sets the number when a thread first asks, and not again
    threadpool_limits(limits=1, user_api="openmp")


@dataclass(frozen=True, slots=True)
class _Reading:
    job: Job
    block: Future[Block]


def _read_ahead(
    work: Workload, jobs: Iterable[Job], reader: ThreadPoolExecutor, ended: threading.Event
) -> Iterator[tuple[Job, Block]]:
    """Blocks of jobs, the next one on its way; a block of several variants is read once."""
    coming: _Reading | None = None
    for job in jobs:
        if coming is not None and coming.job.start == job.start:
            block = coming.block
        else:
            block = reader.submit(read_block, work, job, ended.is_set)
        following = _Reading(job, block)
        if coming is not None:
            yield coming.job, coming.block.result()
        coming = following
    if coming is not None:
        yield coming.job, coming.block.result()


def _write(work: Workload, job: Job, crafted: Crafted, folder: Path) -> ShardEntry:
    rows = crafted.rows
    sha256, size = write_shard(folder, rows, work.about(job, crafted.unreadable))
    return ShardEntry(
        shard=job.shard,
        variant=job.variant,
        rows=len(rows),
        sha256=sha256,
        bytes=size,
        successes=rows.successes,
        correct=rows.correct,
        seconds=crafted.seconds,
        unreadable=crafted.unreadable,
    )

"""One worker: makes the shards that it is handed, and tells what came of them."""

import pickle
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from deitsec.generation.local import produce
from deitsec.generation.parcel import Parcel, unpack
from deitsec.generation.plan import Job
from deitsec.generation.site import Site
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry

_SECONDS = 1.0  # between two reports of a worker that has nothing else to tell
Answer = Job | Literal["none for now"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What happened since the last report.

    Attributes:
        entries: shards that are under their final names.
        rows: how many rows of a shard are attacked, by shard.
        wants: whether the worker asks for a job; the next call has to answer.
        failure: what stopped it for good, if anything did.
    """

    entries: tuple[ShardEntry, ...]
    rows: dict[int, int]
    wants: bool
    failure: Exception | None


class ShardWorker:
    """Makes shards in a thread of its own, as the local runner does, and pulls the jobs for it.

    It asks for the next job when it begins to attack one, so reading, attacking and writing overlap
    and no worker hoards jobs that another could begin.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[ShardEntry] = []
        self._rows: dict[int, int] = {}
        self._answer: Answer | None = None
        self._wants = False
        self._failure: Exception | None = None

    def open(self, parcel: Parcel, site: Site, device: str, threads: int) -> None:
        """Get ready: unpack the workload, and see whether this machine is fit for it.

        Args:
            parcel: the workload.
            site: what must be found here.
            device: where the models go.
            threads: of PyTorch in this process.

        Raises:
            ValueError: what `Site.check` raises.
        """
        torch.set_num_threads(threads)
        work = unpack(parcel, device)
        site.check(work)
        threading.Thread(target=self._serve, args=(work, site), daemon=True).start()

    def report(self, answer: Answer | None = None) -> Report:
        """Wait for news, a second at most.

        Args:
            answer: to the wish of the last report, where it had one.
        """
        with self._changed:
            if answer is not None:
                self._answer, self._wants = answer, False
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._wants or self._entries or self._failure, timeout=_SECONDS
            )
            report = Report(
                entries=tuple(self._entries),
                rows=dict(self._rows),
                wants=self._wants,
                failure=self._failure,
            )
            self._entries.clear()
            self._rows.clear()
        return report

    def _serve(self, work: Workload, site: Site) -> None:
        try:
            while True:  # a pipeline ends when there is no job for now
                for entry in produce(work, self._jobs(), site.folder, self._tick):
                    with self._changed:
                        self._entries.append(entry)
                        self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._failure = _portable(error)
                self._changed.notify_all()

    def _jobs(self) -> Iterator[Job]:
        while True:
            with self._changed:
                self._wants = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._wants)
                answer = self._answer
            if not isinstance(answer, Job):
                return
            yield answer

    def _tick(self, job: Job, rows: int) -> None:
        with self._changed:
            self._rows[job.shard] = rows


class WorkerTracebackError(Exception):
    """The traceback of an error that was raised in another process."""

    def __str__(self) -> str:
        """The lines, set off from those of this process."""
        return f"\n\nin the worker:\n{self.args[0]}"


def _portable(error: Exception) -> Exception:
    """An error as it survives the journey, with its traceback as text."""
    lines = "".join(traceback.format_exception(error))
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's own class does when it is made again
        found = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(found, Exception) or str(found) != str(error):
        found = RuntimeError(f"{type(error).__name__}: {error}")
    found.worker_traceback = lines  # pyright: ignore[reportAttributeAccessIssue]
    return found

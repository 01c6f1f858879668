"""Makes shards on the workers of a Ray cluster: several GPUs, several machines."""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deitsec.generation.job_desk import JobDesk
from deitsec.generation.local import RowTick
from deitsec.generation.parcel import pack
from deitsec.generation.plan import Job
from deitsec.generation.ray_connection import check_ray, connected
from deitsec.generation.shard_worker import Answer, Report, ShardWorker, WorkerTracebackError
from deitsec.generation.site import prepared_site
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry, shard_name
from deitsec.shards.layout import unfinished_files

_PATIENCE = 60.0  # seconds without any worker, before something is said
_LOSSES_IN_A_ROW = 20  # without a shard between them: it is not the shards then


class WorkerLostError(RuntimeError):
    """Workers died, and not by a mistake that could be told beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayRunner:
    """Makes shards by actors that pull one job after the other (`deitsec.generation.run.Runner`).

    A lost worker is replaced, and its shards are made by whoever is free. Workers for which there
    is no room yet start when there is: on machines that join, or when others let go. Shards are
    written straight into the folder, which every machine has to see under the same path.

    Attributes:
        address: of a cluster; None uses the one that this process is connected to, or starts one
            on this machine for the length of the run.
        workers: how many at most, >= 1.
        gpus_per_worker: 0 to 1, a share of one GPU; None gives each a GPU where the model is on
            one.
        threads: of PyTorch, each worker; None shares the cores out.
        attempts: workers that a shard may cost before it is given up, >= 1.

    Raises:
        ImportError: Ray is not installed.
        ValueError: a number out of range.
    """

    address: str | None = None
    workers: int = 2
    gpus_per_worker: float | None = None
    threads: int | None = None
    attempts: int = 3

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("workers", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 1:
            raise ValueError(
                f"gpus_per_worker must be in [0, 1], got {self.gpus_per_worker}: a worker uses one "
                "GPU at most"
            )
        check_ray()

    def __call__(
        self, work: Workload, jobs: Iterable[Job], folder: Path, tick: RowTick | None = None
    ) -> Generator[ShardEntry]:
        """Make the shards of some jobs; see `Runner`.

        Raises:
            DataError: a row cannot be read, and the run is strict.
            OSError: a shard cannot be written.
            ValueError: no such cluster, no room in it, or a machine that does not see the folder
                or the data or has other versions.
            WorkerLostError: shards were given up; all others are done.
        """
        desk = JobDesk(jobs, attempts=self.attempts)
        if desk.finished:
            return
        gpus = self._gpus(work)
        parcel = pack(work)
        try:
            with (
                connected(self.address, workers=self.workers, gpus=gpus) as (ray, share),
                prepared_site(work, folder) as site,
            ):
                threads = self.threads or share
                sent = (ray.put(parcel), ray.put(site), "cuda" if gpus else "cpu", threads)
                kind = ray.remote(ShardWorker).options(
                    num_cpus=threads, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
                )
                crew = _Crew(ray, lambda: kind.remote(), sent, desk, tick)
                try:
                    yield from crew.work(self.workers)
                finally:
                    crew.dismiss()
        finally:
            for leftover in unfinished_files(folder):  # of workers that were killed
                leftover.unlink(missing_ok=True)
        if desk.given_up:
            raise WorkerLostError(_told(desk.given_up, self.attempts, crew.lost))

    def _gpus(self, work: Workload) -> float:
        on_gpu = work.variants[0].engine.device.type == "cuda"
        if self.gpus_per_worker is None:
            return float(on_gpu)
        if on_gpu and not self.gpus_per_worker:
            raise ValueError(
                "the model is on a GPU and workers get none: give them one by --gpus-per-worker 1, "
                "or choose --device cpu"
            )
        return self.gpus_per_worker


@dataclass(eq=False, slots=True)
class _Worker:
    number: int
    actor: Any
    opened: bool = False


class _Crew:
    """The workers of a run, each with one call under way or waiting for a job.

    Attributes:
        lost: why workers were lost, in turn.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[], Any],
        sent: tuple[Any, ...],
        desk: JobDesk,
        tick: RowTick | None,
    ) -> None:
        self.lost: list[str] = []
        self._ray, self._hire, self._sent, self._desk, self._tick = ray, hire, sent, desk, tick
        self._calls: dict[Any, _Worker] = {}
        self._waiting: deque[_Worker] = deque()
        self._hired = 0
        self._barren = 0  # losses since the last shard
        self._jobs: dict[int, Job] = {}

    def work(self, workers: int) -> Iterator[ShardEntry]:
        """Make everything that the desk has."""
        for _ in range(workers):
            self._start()
        while not self._desk.finished:
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_PATIENCE)
            for call in ready:
                worker = self._calls.pop(call)
                report = self._answer_of(worker, call)
                if report is not None:
                    yield from self._heard(worker, report)
            self._hand_out()
            if not ready:
                warnings.warn("the Ray cluster has no room for a worker yet", stacklevel=2)

    def dismiss(self) -> None:
        """End all workers, those that have not started among them."""
        for worker in (*self._calls.values(), *self._waiting):
            self._ray.kill(worker.actor)

    def _start(self) -> None:
        worker = _Worker(self._hired, self._hire())
        self._hired += 1
        self._calls[worker.actor.open.remote(*self._sent)] = worker

    def _answer_of(self, worker: _Worker, call: Any) -> Report | None:
        errors = self._ray.exceptions
        try:
            report = self._ray.get(call)
        except errors.RayTaskError as error:
            raise (error if error.cause is None else error.cause) from None
        except errors.RayActorError as error:
            if error.actor_init_failed:  # the class itself cannot be loaded there
                reason = str(error).strip().splitlines()[-1]
                raise ImportError(f"a worker cannot start ({reason}): install deitsec") from None
            self._replace(worker, error)
            return None
        except errors.RayError as error:
            self._replace(worker, error)
            return None
        if worker.opened:
            return report
        worker.opened = True
        self._call(worker)
        return None

    def _heard(self, worker: _Worker, report: Report) -> Iterator[ShardEntry]:
        for shard, rows in report.rows.items():
            if self._tick is not None and shard in self._jobs:
                self._tick(self._jobs[shard], rows)
        for entry in report.entries:
            self._desk.finish(worker.number, entry.shard)
            del self._jobs[entry.shard]
            self._barren = 0
            yield entry
        if report.failure is not None:
            lines = getattr(report.failure, "worker_traceback", "")
            raise report.failure from WorkerTracebackError(lines)
        if report.wants:
            self._waiting.append(worker)
        else:
            self._call(worker)

    def _hand_out(self) -> None:
        for _ in range(len(self._waiting)):
            worker = self._waiting.popleft()
            job = self._desk.take(worker.number)
            if job is not None:
                self._jobs[job.shard] = job
                self._call(worker, job)
            elif self._desk.holds(worker.number):
                self._call(worker, "none for now")
            else:
                self._waiting.append(worker)

    def _call(self, worker: _Worker, answer: Answer | None = None) -> None:
        self._calls[worker.actor.report.remote(answer)] = worker

    def _replace(self, worker: _Worker, error: Exception) -> None:
        self._ray.kill(worker.actor)
        memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        self.lost.append("its machine ran out of memory" if memory else "it was killed or crashed")
        lost = self._desk.lose(worker.number)
        warnings.warn(
            f"a worker was lost ({self.lost[-1]}); shards it had in hand: {len(lost)}",
            stacklevel=2,
        )
        for job in lost:
            self._jobs.pop(job.shard)
            if self._tick is not None:
                self._tick(job, 0)
        self._barren += 1
        if self._barren >= _LOSSES_IN_A_ROW:
            raise WorkerLostError(
                f"{self._barren} workers were lost in a row ({self.lost[-1]}): see to the machines "
                "and the memory, then go on with --resume"
            )
        self._start()


def _told(shards: tuple[int, ...], attempts: int, lost: list[str]) -> str:
    names = ", ".join(shard_name(shard) for shard in shards[:5])
    more = f" and {len(shards) - 5} others" if len(shards) > 5 else ""
    times = "once" if attempts == 1 else f"{attempts} times"
    return (
        f"{names}{more} lost the worker that made it {times} ({lost[-1]}); all other shards are "
        "done: mend the cause and go on with --resume"
    )

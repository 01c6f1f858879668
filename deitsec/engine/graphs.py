"""Steps captured in CUDA graphs: one launch for a forward pass, its gradient and the update."""

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.batch import Batch
from deitsec.engine.query import EngineQuery
from deitsec.engine.row_batch import clone_record
from deitsec.engine.steps import take_step
from deitsec.types import Step

# a capture costs about as much as some steps
_LEAST_STEPS = 3
_SYNCHRONIZING = "called a synchronizing CUDA operation"
_PROTOTYPE = "Synchronization debug mode is a prototype"  # what switching it on says


class CaptureError(RuntimeError):
    """The work cannot be recorded; the message says why."""


class Recorder(Protocol):
    """Records work once, to be repeated on the same memory."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` without doing it; what comes back does it."""
        ...


class CudaRecorder:
    """Records into a CUDA graph.

    The work is done once on the stream of the capture before it is captured there: what is made
    when it is first needed (kernels of Triton for pointers of this alignment, plans of cuDNN,
    workspaces of cuBLAS, which belong to a stream) must not be made while recording. That run also
    tells whether the work waits for the GPU. A capture that hits this is not only in vain: it
    leaves the random generator and the allocator believing that it still goes on.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # one for all graphs: no result of theirs stays in it, so the order of replays is free
        self.pool = torch.cuda.graph_pool_handle()
        # not PyTorch's own, which belongs to the device that was current when it was made
        self.stream = torch.cuda.Stream(device)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture the work.

        Raises:
            CaptureError: it waits for the GPU.
        """
        with torch.cuda.device(self.device), _current_stream_kept(self.device):
            self._warm_up(work)
            graph = torch.cuda.CUDAGraph()
            # thread_local: the next wave is pinned and copied by a thread of its own meanwhile
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                work()
        return graph.replay

    def _warm_up(self, work: Callable[[], None]) -> None:
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream), _waits_noticed() as waits:
            work()
        here.wait_stream(self.stream)
        if waits:
            raise CaptureError(f"it waits for the GPU at {waits[0]}")


@contextlib.contextmanager
def _current_stream_kept(device: torch.device) -> Generator[None]:
    """Put the current stream back, which a capture that fails leaves at its own."""
    before = torch.cuda.current_stream(device)
    try:
        yield
    finally:
        torch.cuda.set_stream(before)


@contextlib.contextmanager
def _waits_noticed() -> Generator[list[str]]:
    """The places at which this thread waits for the GPU; what other threads do is left alone."""
    ours = threading.get_ident()
    waits: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        others = warnings.showwarning

        def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
            if _SYNCHRONIZING in str(message):
                if threading.get_ident() == ours:
                    waits.append(f"{filename}:{lineno}")
            elif _PROTOTYPE not in str(message):
                others(message, category, filename, lineno, *rest)

        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode(max(mode, 1))
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)


@dataclass(kw_only=True, slots=True)
class Captured:
    """A step on memory of its own.

    Attributes:
        batch: where it reads and writes.
        replay: takes the step once.
        forwards, backwards: what one step asks of the model.
    """

    batch: Batch
    replay: Callable[[], None]
    forwards: int
    backwards: int


class GraphSteps:
    """Replays each step from a graph: one for each step of the plan, batch size and goal.

    The first step of a batch is taken in the usual way: it may stand on the clean image, whose
    logits are wanted. A step that cannot be captured is taken in the usual way from then on, and
    the reason is kept.

    A graph is the model as it was when it was captured: its caller makes another `GraphSteps` when
    the model changes, see `deitsec.engine.fingerprint`.

    Args:
        device: where the model is.
        recorder: what records; None takes CUDA graphs.
    """

    def __init__(self, device: torch.device, recorder: Recorder | None = None) -> None:
        self.recorder = CudaRecorder(device) if recorder is None else recorder
        self.captured: dict[Any, Captured] = {}
        self.reason: str | None = None

    def advance(self, step: Step, query: EngineQuery, times: int) -> None:
        """Take the step, as often as asked."""
        left = times
        if query.batch.forwards + query.batch.backwards == 0:
            take_step(step, query)
            left -= 1
        captured = self._graph(step, query, left)
        if captured is None:
            for _ in range(left):
                take_step(step, query)
        else:
            self._replay(captured, query, left)

    def explain(self) -> str:
        """Whether graphs are in use, or why not."""
        if self.reason is not None:
            return f"off: {self.reason}"
        return f"on: {len(self.captured)} captured"

    def forget(self) -> None:
        """Give back the memory of the graphs."""
        self.captured.clear()

    def _graph(self, step: Step, query: EngineQuery, left: int) -> Captured | None:
        """The step as a graph, or None where it is not worth one or cannot be one."""
        if self.reason is not None or left == 0 or query.batch.kept.logits is None:
            return None
        key = _key(step, query)
        if key not in self.captured:
            if left < _LEAST_STEPS:
                return None
            try:
                self.captured[key] = self._capture(step, query)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._give_up(error)
                return None
        return self.captured[key]

    def _give_up(self, error: BaseException) -> None:
        while error.__context__ is not None:  # ending a capture that failed raises once more
            error = error.__context__
        self.reason = f"the step cannot be captured: {str(error).splitlines()[0]}"
        warnings.warn(f"cuda_graphs: {self.reason}; steps are launched one by one", stacklevel=9)

    def _capture(self, step: Step, query: EngineQuery) -> Captured:
        batch = clone_record(query.batch)
        inner = EngineQuery(query.driver, batch, preference=query.preference)

        def work() -> None:
            state, batch.forwards, batch.backwards = batch.state, 0, 0
            try:
                take_step(step, inner)
                _carry_over(batch.state, state)
            finally:
                batch.state = state

        replay = self.recorder.record(work)
        return Captured(
            batch=batch, replay=replay, forwards=batch.forwards, backwards=batch.backwards
        )

    @staticmethod
    def _replay(captured: Captured, query: EngineQuery, times: int) -> None:
        if times == 0:
            return
        batch = query.batch
        _copy(batch.problem, captured.batch.problem)
        _copy(batch.state, captured.batch.state)
        _copy(batch.kept, captured.batch.kept)
        for _ in range(times):
            captured.replay()
        # in memory of its own: a field of the old state may be the clean image, or another field
        batch.state = clone_record(captured.batch.state)
        _copy(captured.batch.kept, batch.kept)
        batch.forwards += times * captured.forwards
        batch.backwards += times * captured.backwards


def _key(step: Step, query: EngineQuery) -> tuple[Any, ...]:
    """Everything that a capture takes as given: Python's values, shapes and dtypes."""
    batch = query.batch
    problem, kept = batch.problem, batch.kept
    goal = problem.goal
    assert kept.logits is not None
    return (
        _name(step),
        (problem.x.shape, problem.x.dtype, kept.logits.shape, kept.logits.dtype),
        (problem.seed, problem.targeted, goal.targeted, goal.confidence, goal.kappa),
        (query.preference, type(batch.state), ops.backend_in_use()),
    )


def _name(step: Step) -> tuple[Any, ...]:
    """The step and whose it is: stages of one attack may share it."""
    return getattr(step, "__qualname__", repr(step)), getattr(step, "__self__", None)


def _carry_over(following: Any, state: Any) -> None:
    """Write the next state into the memory of this one."""
    targets = list(_tensors(state))
    places = {target.untyped_storage().data_ptr() for target in targets}
    # what a step changed in place is where it belongs
    moved = [
        (value, target)
        for value, target in zip(_tensors(following), targets, strict=True)
        if value is not target
    ]
    # the last iterate of a state is the iterate of the one before: it is read before it is written
    values = [
        value.clone() if value.untyped_storage().data_ptr() in places else value
        for value, _ in moved
    ]
    for value, (_, target) in zip(values, moved, strict=True):
        target.copy_(value)


def _copy(source: Any, target: Any) -> None:
    """Copy every tensor of a record into another of its kind."""
    for ours, theirs in zip(_tensors(source), _tensors(target), strict=True):
        if ours is not theirs:
            theirs.copy_(ours, non_blocking=True)


def _tensors(record: Any) -> Iterator[Tensor]:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from _tensors(value)

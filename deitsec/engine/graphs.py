"""Steps captured in CUDA graphs: one launch for a forward pass, its gradient and the update."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deitsec.engine.batch import Batch
from deitsec.engine.query import EngineQuery
from deitsec.engine.row_batch import clone_record
from deitsec.engine.steps import take_step
from deitsec.types import Step

# a capture costs about as much as some steps, and steps before it warm up what it records
_LEAST_STEPS = 3


class Recorder(Protocol):
    """Records work once, to be repeated on the same memory."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` without doing it; what comes back does it."""
        ...


class CudaRecorder:
    """Records into a CUDA graph.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture; the stream of the capture is PyTorch's own."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self.pool):
            work()
        return graph.replay


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
    """Replays each step from a graph: one for each step of the plan, batch shape and model.

    The first steps of a batch are taken in the usual way, until logits are kept: one may stand on
    the clean image, whose logits are wanted, and they warm up what is captured next. Memory is
    fixed in a capture: what is not there yet has no place in it. A step that cannot be captured is
    taken in the usual way from then on, and the reason is kept.

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
        x, model = query.batch.problem.x, query.driver.model.model
        key = (_name(step), x.shape, x.dtype, query.batch.problem.targeted, query.first, model)
        while left and not self._may_replay(key, query, left):
            take_step(step, query)
            left -= 1
        if not left:
            return
        if key not in self.captured:
            try:
                self.captured[key] = self._capture(step, query)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self._give_up(error)
                for _ in range(left):
                    take_step(step, query)
                return
        self._replay(self.captured[key], query, left)

    def explain(self) -> str:
        """Whether graphs are in use, or why not."""
        if self.reason is not None:
            return f"off: {self.reason}"
        return f"on: {len(self.captured)} captured"

    def _may_replay(self, key: Any, query: EngineQuery, left: int) -> bool:
        if self.reason is not None or query.batch.kept.logits is None:
            return False
        return key in self.captured or left >= _LEAST_STEPS

    def _give_up(self, error: RuntimeError) -> None:
        self.reason = f"the step cannot be captured: {str(error).splitlines()[0]}"
        warnings.warn(f"cuda_graphs: {self.reason}; steps are launched one by one", stacklevel=8)

    def _capture(self, step: Step, query: EngineQuery) -> Captured:
        batch = clone_record(query.batch)
        before = (batch.forwards, batch.backwards)
        inner = EngineQuery(query.driver, batch, first=query.first)

        def work() -> None:
            state = batch.state
            take_step(step, inner)
            _copy(batch.state, state)
            batch.state = state

        replay = self.recorder.record(work)
        return Captured(
            batch=batch,
            replay=replay,
            forwards=batch.forwards - before[0],
            backwards=batch.backwards - before[1],
        )

    @staticmethod
    def _replay(captured: Captured, query: EngineQuery, times: int) -> None:
        batch = query.batch
        _copy(batch.problem, captured.batch.problem)
        _copy(batch.goal, captured.batch.goal)
        _copy(batch.state, captured.batch.state)
        _copy(batch.kept, captured.batch.kept)
        for _ in range(times):
            captured.replay()
        _copy(captured.batch.state, batch.state)
        _copy(captured.batch.kept, batch.kept)
        batch.forwards += times * captured.forwards
        batch.backwards += times * captured.backwards


def _name(step: Step) -> str:
    return getattr(step, "__qualname__", repr(step))


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

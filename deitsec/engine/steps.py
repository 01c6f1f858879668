"""Takes the steps of an attack on a batch, one after the other."""

from typing import Protocol

import torch
from torch import Tensor

from deitsec.engine.batch import Batch
from deitsec.engine.query import EngineQuery
from deitsec.types import State, Step


class Steps(Protocol):
    """How steps are taken."""

    def advance(self, step: Step, query: EngineQuery, times: int) -> None:
        """Take a step `times` times on the batch of the query; its state and what is kept move."""
        ...


class EagerSteps:
    """Calls the step."""

    def advance(self, step: Step, query: EngineQuery, times: int) -> None:
        """Take the step, as often as asked."""
        for _ in range(times):
            take_step(step, query)


def take_step(step: Step, query: EngineQuery) -> None:
    """Take one step; a row whose gradient was not finite stays where it was."""
    batch: Batch = query.batch
    following: State = step(batch.problem, batch.state, query)
    batch.state = _held(batch.state, following, batch.kept.finite)


def _held(state: State, following: State, finite: Tensor) -> State:
    # reading a value waits for a GPU, but not for the CPU: there, all is well is worth knowing
    if finite.device.type == "cpu" and bool(finite.all()):
        return following
    return following.replace(x=torch.where(finite[:, None, None, None], following.x, state.x))

"""Everything that changes while a model is trained, and the file that it is resumed from."""

import io
import pickle
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from deitsec.models import Classifier
from deitsec.training.method import Method
from deitsec.training.modes import place_of
from deitsec.training.processes import Processes
from deitsec.training.result import EpochRecord
from deitsec.whole_files import replace_files

_FORMAT = 2

# settings that decide how a run goes on, but not what it comes to
_FREE = ("save_every",)


@dataclass(kw_only=True)
class RunState:
    """A run between two steps.

    Attributes:
        model: with the weights of the last step.
        optimizer: of those weights.
        scheduler: timm's.
        generator: the CPU generator of the order and the augmentation.
        method: what is trained for, which may have a state of its own.
        best: the state dict that is kept.
        best_epoch: the epoch it is from, counted from 1; 0 for the weights of the start.
        history: one record for each epoch that is done.
        stopped_early: whether patience has run out, or the method ended the run.
        order: the rows of the running epoch in its order; None between two epochs.
        step: steps of the running epoch that are done.
        total: () sum of their losses, on the device of the model.
        since: the running epoch's start by `time.perf_counter`, less the time of its earlier runs.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: Any
    generator: torch.Generator
    method: Method
    best: dict[str, Tensor]
    total: Tensor
    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list[EpochRecord])
    stopped_early: bool = False
    order: Tensor | None = None
    step: int = 0
    since: float = 0.0

    @property
    def epoch(self) -> int:
        """The running epoch, or the next one, counted from 1."""
        return len(self.history) + 1

    @property
    def seconds(self) -> float:
        """Wall time of all epochs that are done."""
        return sum(record.seconds for record in self.history)


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """Copy the state dict of a model, on its device."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def save_state(
    state: RunState, path: Path, identity: Mapping[str, Any], processes: Processes
) -> None:
    """Write the run to `path`, whole or not at all; folders are made.

    Every process calls it, since each has random streams of its own; the first one writes.

    Args:
        state: the run, between two steps.
        path: the file.
        identity: what a resumed run must have in common with this one; plain values only.
        processes: that share the run.
    """
    device = place_of(state.model)
    document = {
        "format": _FORMAT,
        "identity": _decisive(identity),
        "model": state.model.state_dict(),
        "best": state.best,
        "best_epoch": state.best_epoch,
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "generator": state.generator.get_state(),
        "method": {name: processes.gather(rows) for name, rows in state.method.state().items()},
        "random_streams": [
            processes.gather(stream.to(device)[None]).cpu() for stream in _random_streams(device)
        ],
        "history": [asdict(record) for record in state.history],
        "stopped_early": state.stopped_early,
        "order": state.order,
        "step": state.step,
        "total": processes.gather(state.total[None]),
        "elapsed": 0.0 if state.order is None else time.perf_counter() - state.since,
    }
    # the others wait: one that begins another run must not read the state before
    processes.from_first(lambda: _write(document, path))


def _write(document: Mapping[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(dict(document), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_files({path: buffer.getvalue()})


def load_state(
    state: RunState, file: bytes, path: Path, identity: Mapping[str, Any], processes: Processes
) -> None:
    """Bring a run to where `save_state` left it: weights, optimizer, schedule and random streams.

    Args:
        state: the run, at its start.
        file: what `save_state` wrote; other machines than the first process's have no such file.
        path: where it was read, for messages.
        identity: as `save_state` was given it.
        processes: that share the run.

    Raises:
        ValueError: if the file cannot be read, or is of a run with another identity; the message
            names each difference.
    """
    saved = _read(file, path)
    if changes := _differences(saved["identity"], _decisive(identity)):
        raise ValueError(
            f"{path} is of another run, so it cannot be resumed: {'; '.join(changes)}. "
            "Give the same settings, or another folder"
        )
    device = place_of(state.model)
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scheduler.load_state_dict(saved["scheduler"])
    state.generator.set_state(saved["generator"])
    own = {name: processes.share(rows).to(device) for name, rows in saved["method"].items()}
    state.method.restore(own)
    # cloned: a view of another tensor's row is read as if it began with it
    _set_random_streams(device, [s[processes.rank].clone() for s in saved["random_streams"]])
    state.best = {name: tensor.to(device) for name, tensor in saved["best"].items()}
    state.best_epoch = saved["best_epoch"]
    state.history = [EpochRecord(**record) for record in saved["history"]]
    state.stopped_early = saved["stopped_early"]
    state.order, state.step = saved["order"], saved["step"]
    state.total = saved["total"][processes.rank].to(device)
    state.since = time.perf_counter() - saved["elapsed"]


def _random_streams(device: torch.device) -> list[Tensor]:
    """The states of the global generators that dropout draws from."""
    on_cuda = device.type == "cuda"
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if on_cuda else [])]


def _set_random_streams(device: torch.device, streams: list[Tensor]) -> None:
    torch.set_rng_state(streams[0])
    if len(streams) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(streams[1], device)


def _decisive(identity: Mapping[str, Any]) -> dict[str, Any]:
    settings = {k: v for k, v in identity["settings"].items() if k not in _FREE}
    return {**identity, "settings": settings}


def _read(file: bytes, path: Path) -> dict[str, Any]:
    try:
        saved: object = torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a training state: {error}") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{path} is no training state: expected a dict")
    document = cast(dict[str, Any], saved)
    if document.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has the format {document.get('format')!r}, expected {_FORMAT}: "
            "it was not written by this version"
        )
    return document


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = _flat(saved), _flat(now)
    return [
        f"{name} was {before.get(name, 'absent')!r} and is {after.get(name, 'absent')!r}"
        for name in sorted({*before, *after})
        if before.get(name, "absent") != after.get(name, "absent")
    ]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

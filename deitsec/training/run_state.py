"""Everything that changes while a model is trained, and the file that it is resumed from."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from deitsec.models import Classifier
from deitsec.training.modes import place_of
from deitsec.training.result import EpochRecord
from deitsec.whole_files import replace_files

_FORMAT = 1


@dataclass(kw_only=True)
class RunState:
    """A run between two epochs.

    Attributes:
        model: with the weights of the last epoch.
        optimizer: of those weights.
        scheduler: timm's.
        generator: the CPU generator of the order and the augmentation.
        best: the state dict that is kept.
        best_epoch: the epoch it is from, counted from 1; 0 for the weights of the start.
        history: one record for each epoch that is done.
        stopped_early: whether patience has run out.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: Any
    generator: torch.Generator
    best: dict[str, Tensor]
    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list[EpochRecord])
    stopped_early: bool = False

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(record.seconds for record in self.history)


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """Copy the state dict of a model, on its device."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def save_state(state: RunState, path: Path, identity: Mapping[str, Any]) -> None:
    """Write the run to `path`, whole or not at all; folders are made.

    Args:
        state: the run, between two epochs.
        path: the file.
        identity: what a resumed run must have in common with this one; plain values only.
    """
    device = place_of(state.model)
    document = {
        "format": _FORMAT,
        "identity": dict(identity),
        "model": state.model.state_dict(),
        "best": state.best,
        "best_epoch": state.best_epoch,
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "generator": state.generator.get_state(),
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "history": [asdict(record) for record in state.history],
        "stopped_early": state.stopped_early,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_files({path: buffer.getvalue()})


def load_state(state: RunState, path: Path, identity: Mapping[str, Any]) -> None:
    """Bring a run to where `save_state` left it: weights, optimizer, schedule and random streams.

    Raises:
        ValueError: if the file cannot be read, or is of a run with another identity; the message
            names each difference.
    """
    saved = _read(path)
    if changes := _differences(saved["identity"], identity):
        raise ValueError(
            f"{path} is of another run, so it cannot be resumed: {'; '.join(changes)}. "
            "Give the same settings, or another folder"
        )
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scheduler.load_state_dict(saved["scheduler"])
    state.generator.set_state(saved["generator"])
    torch.set_rng_state(saved["cpu_rng"])
    device = place_of(state.model)
    if saved["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda_rng"], device)
    state.best = {name: tensor.to(device) for name, tensor in saved["best"].items()}
    state.best_epoch = saved["best_epoch"]
    state.history = [EpochRecord(**record) for record in saved["history"]]
    state.stopped_early = saved["stopped_early"]


def _read(path: Path) -> dict[str, Any]:
    try:
        saved: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
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

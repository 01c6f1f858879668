"""The pieces of a study that are done: what a stopped study goes on from."""

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from deitsec.data import DataSource
from deitsec.models import Classifier, load_weights, model_sha256, save_checkpoint
from deitsec.training import FitResult, TrainingEvent
from deitsec.whole_files import replace_files

_NAME = re.compile(r"[\w.-]+")


class Workbook:
    """A folder with one file for each piece, each written whole or not at all.

    Args:
        folder: made where it is missing.
        identity: everything that decides the pieces; plain values.

    Attributes:
        seconds: that each piece took, by name, in the run that made it.
        models: of each network the sha256 of its weights, its epochs and seconds.

    Raises:
        ValueError: the folder holds the pieces of another study, or of other settings; the message
            names each difference.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self._seen: set[str] = set()
        path = folder / "identity.json"
        ours = json.loads(json.dumps(identity))
        if path.exists():
            if changes := _differences(_read(path), ours):
                raise ValueError(
                    f"{folder} holds the pieces of another run: {'; '.join(changes)}. Give the "
                    "same settings, another --out, or --fresh to start anew"
                )
        else:
            replace_files({path: _json(ours)})

    def part(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A piece; see `StudyRun.part`."""
        path = self._path(name, ".json")
        if path.exists():
            piece = _read(path)
        else:
            started = time.perf_counter()
            found = dict(make())
            piece = {"seconds": time.perf_counter() - started, "found": found}
            replace_files({path: _json(piece)})
            piece = _read(path)  # as a run that goes on will have it
        self.seconds[name] = piece["seconds"]
        return piece["found"]

    def network(
        self,
        name: str,
        build: Callable[[], Classifier],
        train: Callable[..., FitResult],
        data: DataSource,
        progress: Callable[[TrainingEvent], None],
    ) -> Classifier:
        """A trained network; see `StudyRun.network`."""
        path = self._path(name, ".safetensors")
        record = path.with_suffix(".training.json")
        state = path.with_suffix(".training")
        network = build()
        if path.exists() and record.exists():
            load_weights(network, path)
        else:
            result = train(network, out=state, resume=True, progress=progress)
            save_checkpoint(
                network, path, training=dict(result.config), class_names=data.class_names
            )
            epochs = len(result.history)
            replace_files({record: _json({"seconds": result.seconds, "epochs": epochs})})
            shutil.rmtree(state, ignore_errors=True)
        noted = _read(record)
        self.seconds[name] = noted["seconds"]
        self.models[name] = {"sha256": model_sha256(network), **noted}
        return network

    def take_over(self, name: str, inner: "Workbook") -> None:
        """Count the pieces and networks of a study that is a part of this one, under its name."""
        self.seconds |= {f"{name}/{part}": seconds for part, seconds in inner.seconds.items()}
        self.models |= {f"{name}/{model}": found for model, found in inner.models.items()}

    def _path(self, name: str, suffix: str) -> Path:
        assert _NAME.fullmatch(name), name
        assert name not in self._seen, f"{name} is asked for twice"
        self._seen.add(name)
        return self.folder / f"{name}{suffix}"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it to make it again") from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name, 'absent')!r} and is {now.get(name, 'absent')!r}"
        for name in sorted({*before, *now})
        if before.get(name, "absent") != now.get(name, "absent")
    ]

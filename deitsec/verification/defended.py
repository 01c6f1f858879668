"""Defenses and what they were measured on: written of a model and data, and held against others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deitsec.data import DataSource
from deitsec.models import Classifier, model_sha256
from deitsec.report.defense import (
    DefendedData,
    DefendedModel,
    Defense,
    DefenseLine,
    Kind,
    read_defense,
)
from deitsec.report.defense_lines import training_lines, training_name

_SHORT = 12  # digits of a hash that a person compares
_DECISIVE = ("method", "attack", "temperature", "alpha", "eps", "steps", "labelled", "teacher")


def measured_defense(
    kind: Kind,
    name: str,
    model: Classifier,
    data: DataSource,
    lines: Sequence[DefenseLine],
    *,
    settings: Mapping[str, Any],
    rows: int,
    seed: int,
    command: str | None = None,
) -> Defense:
    """A defense with the hashes of what it was measured on.

    Args:
        kind, name, settings, rows, seed, command: see `Defense`.
        model: that is defended: the one inside of a smoothed classifier, say.
        data: whose test images were looked at.
        lines: what was measured.
    """
    return Defense(
        kind=kind,
        name=name,
        settings=settings,
        model=DefendedModel(name=model.name, sha256=model_sha256(model), head=_head(model)),
        data=DefendedData(uri=data.uri, sha256=data.sha256, image_shape=data.test.shape),
        rows=rows,
        command=command,
        seed=seed,
        lines=tuple(lines),
    )


def gather(
    defenses: Sequence[str | Path | Defense], model: Classifier, data: DataSource
) -> list[Defense]:
    """Read defenses, and refuse those that were not measured on this model and these data.

    Args:
        defenses: files, or what they hold.
        model: that is verified.
        data: that it is verified on.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a file that is no defense, or one of other weights, another head, other data or
            another image shape; the message names both hashes.
    """
    found: list[Defense] = []
    for given in defenses:
        defense = given if isinstance(given, Defense) else read_defense(given)
        origin = f"the defense {defense.name!r}" if isinstance(given, Defense) else str(given)
        _check_fits(defense, model, data, origin)
        found.append(defense)
    return found


def training_defense(
    model: Classifier, data: DataSource, report: Mapping[str, Any]
) -> list[Defense]:
    """The way in which the model of a report was trained, where that is known.

    Args:
        model: of the report.
        data: of the report.
        report: its document, as far as it is made.
    """
    training = report["model"]["training"]
    name = training_name(training or {})
    if name is None:
        return []
    assert training is not None
    found = measured_defense(
        "training",
        name,
        model,
        data,
        training_lines(report),
        settings={key: training[key] for key in _DECISIVE if key in training},
        rows=report["clean"]["rows"],
        seed=report["seed"],
        command=report["command"],
    )
    return [found]


def _head(model: Classifier) -> str | None:
    return model.head if model.distilled else None


def _check_fits(defense: Defense, model: Classifier, data: DataSource, origin: str) -> None:
    ours = model_sha256(model)
    if defense.model.sha256 != ours:
        raise ValueError(
            f"{origin} was measured on other weights: those of {defense.model.name} have sha256 "
            f"{defense.model.sha256[:_SHORT]}, those of {model.name} here {ours[:_SHORT]}"
        )
    if defense.model.head != _head(model):
        raise ValueError(
            f"{origin} was measured on the head {defense.model.head!r} of {model.name}, and here "
            f"{_head(model)!r} answers"
        )
    if defense.data.sha256 != data.sha256:
        raise ValueError(
            f"{origin} was measured on other data: {defense.data.uri} has sha256 "
            f"{defense.data.sha256[:_SHORT]}, {data.uri} here {data.sha256[:_SHORT]}"
        )
    if defense.data.image_shape != data.test.shape:
        sizes = (" x ".join(map(str, s)) for s in (defense.data.image_shape, data.test.shape))
        raise ValueError(f"{origin} was measured on images of {next(sizes)}, not {next(sizes)}")

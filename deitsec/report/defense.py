"""What a defense came to: the one form of `defense.json`, which a report takes up."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from deitsec.report.document import plain, to_json

DEFENSE_SCHEMA = "deitsec.defense/1"

Kind = Literal["training", "smoothing", "detector", "hidden-model", "poisoning"]
Measure = Literal["accuracy", "success"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DefenseLine:
    """One line of figures.

    Attributes:
        label: which part or setting of the defense; empty where there is one line.
        clean: accuracy without an attack, in [0, 1]; None where it was not measured.
        measure: what the figures under attack are: `accuracy`, the share of all rows that stay
            right, or `success`, the share of the rows open to the attack on which it succeeds.
        plain, adaptive: that share under an attacker who does not know the defense, and under one
            who does; None where none was tried.
        plain_attack, adaptive_attack: who they are, in words or as a spec; None where none was.
        worth: one plain sentence or two on what the defense is worth.

    Raises:
        TypeError: a field of another type.
        ValueError: a share outside [0, 1], a figure without its attack, or no sentence.
    """

    label: str
    clean: float | None
    measure: Measure
    plain: float | None
    plain_attack: str | None
    adaptive: float | None
    adaptive_attack: str | None
    worth: str

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_texts(self, "label", "worth")
        if not self.worth.strip():
            raise ValueError("worth must say something, got no text")
        _check_choice("measure", self.measure, get_args(Measure))
        for name in ("clean", "plain", "adaptive"):
            _check_share(name, getattr(self, name))
        for name in ("plain", "adaptive"):
            attack = getattr(self, f"{name}_attack")
            if attack is not None and not isinstance(attack, str):
                raise TypeError(f"{name}_attack must be text or null, got {attack!r}")
            if getattr(self, name) is not None and not attack:
                raise ValueError(f"{name} is a figure, so {name}_attack must name the attack")


@dataclass(frozen=True, kw_only=True, slots=True)
class DefendedModel:
    """The model that a defense was measured on.

    Attributes:
        name: of the architecture or module.
        sha256: of its weights.
        head: which head answers, of a model with several; None for one.
    """

    name: str
    sha256: str
    head: str | None

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_texts(self, "name")
        _check_sha256("sha256", self.sha256)
        if self.head is not None and not isinstance(self.head, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"head must be text or null, got {self.head!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DefendedData:
    """The data that a defense was measured on.

    Attributes:
        uri: where they came from.
        sha256: of the data.
        image_shape: (C, H, W) of the images as the model sees them.
    """

    uri: str
    sha256: str
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_texts(self, "uri")
        _check_sha256("sha256", self.sha256)
        shape: Any = self.image_shape
        if not isinstance(shape, list | tuple):
            raise TypeError(f"image_shape must be [channels, height, width], got {shape!r}")
        sizes = tuple(cast("list[Any]", shape))
        if len(sizes) != 3 or not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"image_shape must be three sizes >= 1, got {shape!r}")
        object.__setattr__(self, "image_shape", sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Defense:
    """A defense, what it was measured on, and what was measured.

    Attributes:
        kind: which defense.
        name: for people.
        settings: what it was measured with, as plain values.
        model, data: what it was measured on.
        rows: test images that were measured on, >= 1.
        command: that made it; None where it was made from Python.
        seed: every draw is keyed by it.
        lines: at least one.

    Raises:
        TypeError: a field of another type.
        ValueError: a value out of range.
    """

    kind: Kind
    name: str
    settings: Mapping[str, Any]
    model: DefendedModel
    data: DefendedData
    rows: int
    command: str | None
    seed: int
    lines: tuple[DefenseLine, ...]

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_choice("kind", self.kind, get_args(Kind))
        _check_texts(self, "name")
        settings: Any = self.settings
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings must be an object, got {settings!r}")
        object.__setattr__(self, "settings", plain(settings))
        if self.command is not None and not isinstance(self.command, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"command must be text or null, got {self.command!r}")
        for name, least in (("rows", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if not self.lines:
            raise ValueError("lines must hold at least one line, got none")

    def document(self) -> dict[str, Any]:
        """The form as plain values: what `defense.json` and a report's `defenses` hold."""
        return plain({"schema": DEFENSE_SCHEMA, **asdict(self)})

    def to_json(self) -> str:
        """The text of defense.json."""
        return to_json(self.document())


def read_defense(path: str | Path) -> Defense:
    """Read and check a `defense.json`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no defense in this form; the message names the file and what does not fit.
    """
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no defense of deitsec: it must be JSON: {error}") from error
    return defense_of(document, origin=str(path))


def defense_of(document: Any, *, origin: str = "this") -> Defense:
    """The defense of a document as `Defense.document` gives it.

    Args:
        document: what the JSON said.
        origin: named in the error.

    Raises:
        ValueError: it does not fit the form.
    """
    schema = cast("dict[str, Any]", document).get("schema") if isinstance(document, dict) else None
    if schema != DEFENSE_SCHEMA:
        raise ValueError(
            f"{origin} is no defense of deitsec: it must have the schema {DEFENSE_SCHEMA!r}, "
            f"got {schema!r}"
        )
    given = {key: value for key, value in document.items() if key != "schema"}
    try:
        _check_keys(Defense, given, "the document")
        if not isinstance(given["lines"], list):
            raise TypeError(f"lines must be a list, got {given['lines']!r}")
        lines = cast("list[Any]", given["lines"])
        given["model"] = _made(DefendedModel, given["model"], "model")
        given["data"] = _made(DefendedData, given["data"], "data")
        given["lines"] = tuple(
            _made(DefenseLine, line, f"lines[{number}]") for number, line in enumerate(lines)
        )
        return Defense(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin} is no defense of deitsec: {error}") from error


def _made(kind: type[_T], value: Any, where: str) -> _T:
    _check_keys(kind, value, where)
    try:
        return kind(**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_keys(kind: Any, value: Any, where: str) -> None:
    """Refuse what is no object with exactly the fields of a dataclass."""
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be an object, got {value!r}")
    found: set[str] = set(cast("dict[str, Any]", value))
    known = {field.name for field in fields(kind)}
    for words, names in (("lacks", known - found), ("has the unknown key", found - known)):
        if names:
            raise ValueError(f"{where} {words} {min(names)!r}")


def _check_texts(holder: Any, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(holder, name), str):
            raise TypeError(f"{name} must be text, got {getattr(holder, name)!r}")


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_sha256(name: str, value: Any) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{name} must be 64 hexadecimal digits, got {value!r}")


def _check_share(name: str, value: Any) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share in [0, 1] or null, got {value!r}")

"""The manifest of an adversarial dataset: what it is made of, and what is in it."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from deitsec.shards.layout import MANIFEST, shard_name
from deitsec.shards.shard_error import ShardError
from deitsec.whole_files import replace_files

FORMAT = "deitsec-shards"
VERSION = 1
_PLACE = ("uri", "name")  # of the source: where it lies, which decides no byte


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """The data that was attacked.

    Attributes:
        uri: what it was opened by.
        name: a short name; of a folder, what it is called.
        split: `train` or `test`.
        sha256: of the stored data.
        rows: of the split.
        shape: (C, H, W) of an image.
        class_names: one name for each class.
    """

    uri: str
    name: str
    split: str
    sha256: str
    rows: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """Which rows are attacked, and how they are cut into shards.

    Attributes:
        rows: of each variant.
        shard_rows: of each shard but the last of a variant.
        per_class: images of each class, or None.
        only_correct: whether rows that a model gets wrong were left out.
        selection_sha256: of the rows picked (`selection.npy`), or None where rows are taken in the
            order of the source.
    """

    rows: int
    shard_rows: int
    per_class: int | None
    only_correct: bool
    selection_sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantRecord:
    """One attack on one model.

    Attributes:
        attack: the spec.
        norm: of its budget.
        eps: its radius in that norm, or None where it has none.
        model: name of the model.
        model_sha256: of its weights.
        target: the class that every row is aimed at, or None where there is no such class.
        file_sha256: of the file that the attack was made from beforehand, or None where it needs
            none.
        preparation: what a `Classifier` does beside its weights: mean, std, head and input size;
            empty for other models.
    """

    attack: str
    norm: str
    eps: float | None
    model: str
    model_sha256: str
    target: int | None = None
    file_sha256: str | None = None
    preparation: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Everything that decides the bytes of the shards, but the hardware.

    Attributes:
        source: the data.
        plan: which rows, how many a shard.
        variants: shard i is of variant i % len(variants).
        options: of the engine, plain values, the seed among them.
        clean_images: whether the clean images are stored too.
        versions: of the software.
    """

    source: SourceRecord
    plan: PlanRecord
    variants: tuple[VariantRecord, ...]
    options: Mapping[str, Any]
    clean_images: bool
    versions: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON reads it back, without where the data lies: so the shards carry it."""
        found = _plain(self)
        for name in _PLACE:
            del found["source"][name]
        return found

    @classmethod
    def from_plain(cls, found: Mapping[str, Any], uri: str = "", name: str = "") -> Self:
        """Read what `plain` gives; `uri` and `name` say where the data lies.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        source: dict[str, Any] = {"uri": uri, "name": name, **found["source"]}
        channels, height, width = source.pop("shape")
        classes = tuple(source.pop("class_names"))
        return cls(
            source=SourceRecord(shape=(channels, height, width), class_names=classes, **source),
            plan=PlanRecord(**found["plan"]),
            variants=tuple(VariantRecord(**variant) for variant in found["variants"]),
            options=dict(found["options"]),
            clean_images=bool(found["clean_images"]),
            versions=dict(found["versions"]),
        )

    def differences(self, other: "Configuration") -> list[str]:
        """What differs in `other`, a phrase each; where the data lies does not count."""
        ours, theirs = _flat(_plain(self)), _flat(_plain(other))
        place = {f"source.{name}" for name in _PLACE}
        return [
            f"{name} was {ours.get(name, 'absent')} and is {theirs.get(name, 'absent')}"
            for name in dict.fromkeys([*ours, *theirs])
            if ours.get(name) != theirs.get(name) and name not in place
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableRow:
    """A row of the source that could not be read.

    Attributes:
        row: of the source's split.
        reason: one line.
    """

    row: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """A finished shard.

    Attributes:
        shard: its number.
        variant: the index of its attack and model.
        rows: how many it holds.
        sha256: of the file.
        bytes: size of the file.
        successes: rows whose goal is reached.
        correct: rows that the model got right before the attack.
        seconds: wall clock spent attacking; None where an interrupted run did not note it.
        unreadable: rows of its share that are missing in it.
    """

    shard: int
    variant: int
    rows: int
    sha256: str
    bytes: int
    successes: int
    correct: int
    seconds: float | None
    unreadable: tuple[UnreadableRow, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file."""
        return shard_name(self.shard)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a dataset is made of, and what is in it.

    Attributes:
        configuration: what decides its bytes.
        shards: the finished ones, by number.
        complete: whether all of them are there.
        command: the command line, or empty.
        environment: versions and hardware of the last run.
        unreadable: rows that could not be read when rows were picked; those of the shards are in
            their entries.
    """

    configuration: Configuration
    shards: tuple[ShardEntry, ...]
    complete: bool
    command: tuple[str, ...]
    environment: Mapping[str, Any]
    unreadable: tuple[UnreadableRow, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(entry.rows for entry in self.shards)

    @property
    def successes(self) -> int:
        """Rows whose goal is reached."""
        return sum(entry.successes for entry in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The document of `manifest.json`; deitsec/shards/manifest.schema.json describes it."""
        shards = [{"name": entry.name, **_plain(entry)} for entry in self.shards]
        listed = [self.unreadable, *(entry.unreadable for entry in self.shards)]
        unreadable = {row.row for rows in listed for row in rows}
        return {
            "format": FORMAT,
            "version": VERSION,
            "complete": self.complete,
            "command": list(self.command),
            "totals": {
                "shards": len(shards),
                "rows": self.rows,
                "successes": self.successes,
                "unreadable": len(unreadable),
                "bytes": sum(entry.bytes for entry in self.shards),
                "seconds": sum(entry.seconds or 0.0 for entry in self.shards),
            },
            "configuration": _plain(self.configuration),
            "environment": dict(self.environment),
            "unreadable": [_plain(row) for row in self.unreadable],
            "shards": shards,
        }

    @classmethod
    def from_json(cls, document: Any, where: str) -> Self:
        """Read a document.

        Raises:
            ShardError: it is none of this format; the message starts with `where`.
        """
        try:
            if (document["format"], document["version"]) != (FORMAT, VERSION):
                given = f"{document['format']} of version {document['version']}"
                raise ShardError(f"{where} is {given}, expected {FORMAT} of version {VERSION}")
            return cls(
                configuration=Configuration.from_plain(document["configuration"]),
                shards=tuple(_entry(entry) for entry in document["shards"]),
                complete=bool(document["complete"]),
                command=tuple(document["command"]),
                environment=dict(document["environment"]),
                unreadable=tuple(UnreadableRow(**row) for row in document["unreadable"]),
            )
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ShardError(f"{where} is no manifest of adversarial shards ({error!r})") from None


def load_manifest_schema() -> dict[str, Any]:
    """Read the JSON Schema (draft 2020-12) that every manifest of this version fulfils."""
    text = files("deitsec.shards").joinpath("manifest.schema.json").read_text("utf-8")
    return json.loads(text)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    # a line for each shard: small enough at 25,000 shards, and still read by people
    document = manifest.to_json()
    shards = ",\n  ".join(json.dumps(entry, allow_nan=False) for entry in document.pop("shards"))
    head = json.dumps(document, indent=1, allow_nan=False)
    text = f'{head[:-2]},\n "shards": [\n  {shards}\n ]\n}}\n' if shards else None
    if text is None:
        text = json.dumps({**document, "shards": []}, indent=1, allow_nan=False) + "\n"
    replace_files({folder / MANIFEST: text.encode()})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a dataset.

    Raises:
        ShardError: there is none, or it is broken.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(f"{folder} holds no {MANIFEST}: it is no adversarial dataset") from None
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({os.strerror(error.errno or 0)})") from None
    except ValueError as error:
        raise ShardError(f"{path} is no JSON ({error})") from None
    return Manifest.from_json(document, str(path))


def _plain(record: Any) -> dict[str, Any]:
    """A record as JSON reads it back: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves by dotted name; lists of plain values are leaves."""
    items: Sequence[tuple[str, Any]]
    if isinstance(value, dict):
        items = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        items = [(f"{name}[{place}]", inner) for place, inner in enumerate(value)]
    else:
        return {name: value}
    return {
        key: leaf for inner_name, inner in items for key, leaf in _flat(inner, inner_name).items()
    }


def _entry(found: Mapping[str, Any]) -> ShardEntry:
    values = dict(found)
    name = values.pop("name")
    unreadable = tuple(UnreadableRow(**row) for row in values.pop("unreadable"))
    entry = ShardEntry(unreadable=unreadable, **values)
    if entry.name != name:
        raise ValueError(f"shard {entry.shard} is called {name!r}")
    return entry

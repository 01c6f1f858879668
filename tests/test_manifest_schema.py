"""The published JSON Schema describes the manifests that are written, and no others."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

from deitsec.attacks import parse_spec
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.shards import (
    MANIFEST,
    UnreadableRow,
    load_manifest_schema,
    read_manifest,
    write_manifest,
)
from deitsec.shards.manifest import (
    Configuration,
    Manifest,
    PlanRecord,
    ShardEntry,
    SourceRecord,
    VariantRecord,
)

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")


def check(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / MANIFEST).read_text())
    schema = load_manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    folder = tmp_path_factory.mktemp("manifest")
    generate(
        Engine(model, batch_size=8),
        [parse_spec("fgsm:eps=8/255"), parse_spec("deepfool:steps=2")],  # one without a radius
        "digits",
        out=folder,
        settings=Settings(rows=6, shard_rows=4, per_class=1),
        command=("deitsec", "generate"),
    )
    return folder


def test_a_manifest_fulfils_the_schema(folder: Path) -> None:
    assert check(folder)["configuration"]["variants"][1]["eps"] is None


def test_a_manifest_of_an_unfinished_run_with_unreadable_rows_does_too(
    folder: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(folder)
    listed = (UnreadableRow(row=3, reason="truncated"),)
    entry = dataclasses.replace(manifest.shards[0], unreadable=listed, seconds=None)
    write_manifest(
        tmp_path,
        dataclasses.replace(manifest, shards=(entry,), complete=False, unreadable=listed),
    )
    assert check(tmp_path)["totals"]["unreadable"] == 1
    write_manifest(tmp_path, dataclasses.replace(manifest, shards=(), complete=False))
    check(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("shards", 0, "sha256"), "abc"),
        (("shards", 0, "rows"), -1),
        (("shards", 0, "name"), "../shard-00000.parquet"),
        (("configuration", "plan", "shard_rows"), 0),
        (("configuration", "variants", 0, "norm"), "l3"),
        (("configuration", "source", "shape"), [1, 32]),
        (("totals", "rows"), "6"),
        (("more",), 1),
    ],
)
def test_what_a_manifest_cannot_say_is_refused(
    folder: Path, path: tuple[str | int, ...], value: Any
) -> None:
    document: Any = json.loads((folder / MANIFEST).read_text())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(load_manifest_schema()).validate(document)


@pytest.mark.parametrize(
    ("record", "path"),
    [
        (Manifest, ("properties",)),
        (Configuration, ("$defs", "configuration", "properties")),
        (SourceRecord, ("$defs", "source", "properties")),
        (PlanRecord, ("$defs", "plan", "properties")),
        (VariantRecord, ("$defs", "variant", "properties")),
        (ShardEntry, ("$defs", "shard", "properties")),
        (UnreadableRow, ("$defs", "unreadable", "properties")),
    ],
)
def test_the_schema_has_the_fields_of_the_records(record: Any, path: tuple[str, ...]) -> None:
    place: Any = load_manifest_schema()
    for step in path:
        place = place[step]
    added = {Manifest: {"format", "version", "totals"}, ShardEntry: {"name"}}.get(record, set())
    assert set(place) == {field.name for field in dataclasses.fields(record)} | added

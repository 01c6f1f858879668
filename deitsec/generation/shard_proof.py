"""A shard as a file and as a list of rows: is it the one that the manifest and the plan mean?"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deitsec.generation.evidence import Evidence
from deitsec.generation.finding import Fault, Finding
from deitsec.generation.plan import Plan
from deitsec.generation.workload import shard_about
from deitsec.shards import Configuration, ShardAbout, ShardError, ShardRows, shard_name
from deitsec.shards.shard_file import decode

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Loaded:
    """A shard that was read.

    Attributes:
        number: of the shard.
        rows: None where the file cannot be read, or is another shard's.
        unreadable: rows of the source that it says could not be read.
        findings: what is wrong with the file.
        hashed: whether there was a hash to hold it to.
    """

    number: int
    rows: ShardRows | None
    unreadable: frozenset[int]
    findings: tuple[Finding, ...]
    hashed: bool


def load_shard(evidence: Evidence, number: int) -> Loaded:
    """Read a shard and hold the file to what is said of it."""
    name, entry = shard_name(number), evidence.entries.get(number)
    findings: list[Finding] = []

    def say(kind: str, message: str, fault: Fault = "shard", column: str | None = None) -> None:
        findings.append(
            Finding(kind=kind, fault=fault, shard=number, column=column, message=message)
        )

    def loaded(rows: ShardRows | None = None, about: ShardAbout | None = None) -> Loaded:
        listed = frozenset(row for row, _ in about.unreadable) if about else frozenset[int]()
        return Loaded(
            number=number,
            rows=rows,
            unreadable=listed,
            findings=tuple(findings),
            hashed=entry is not None,
        )

    try:
        data = (evidence.folder / name).read_bytes()
    except OSError as error:
        say("parquet", f"{name} cannot be read ({error.strerror})")
        return loaded()
    found = hashlib.sha256(data).hexdigest()
    intact = entry is not None and entry.sha256 == found
    if entry is None and evidence.manifest is not None:
        say("manifest", f"{name} is not listed in the manifest", "manifest")
    if entry is not None and entry.bytes != len(data):
        text = f"{name} has {len(data)} bytes, the manifest states {entry.bytes}"
        say("size", text, "manifest" if intact else "shard")
    if entry is not None and not intact:
        say("hash", f"{name} has the sha256 {found}, the manifest states {entry.sha256}")
    try:
        rows, about = decode(data, name)
    except (ShardError, ValueError) as error:
        say("parquet", str(error))
        return loaded()
    del data
    for column, text in _metadata(evidence.configuration, number, about):
        say("metadata", f"{name} {text}", column=column)
    if about.shard != number or rows.image.shape[1:] != evidence.configuration.source.shape:
        return loaded()  # each row of it would be a finding
    if (rows.clean_image is not None) != evidence.configuration.clean_images:
        has = "no clean images" if rows.clean_image is None else "clean images"
        say("metadata", f"{name} holds {has}, unlike the configuration", column="clean_image")
    for column, stated, counted in _counts(evidence, number, rows, about):
        text = f"the manifest states {stated} for {column}, {name} holds {counted}"
        say("count", text, "manifest" if intact else "shard", column)
    return loaded(rows, about)


def _metadata(
    configuration: Configuration, number: int, about: ShardAbout
) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of what a shard says of itself."""
    expected = shard_about(configuration, number)
    differs = False
    for field in dataclasses.fields(ShardAbout):
        if field.name in ("unreadable", "dataset"):
            continue
        said, meant = getattr(about, field.name), getattr(expected, field.name)
        if _plain(said) != _plain(meant):
            differs = True
            yield field.name, f"states {field.name} {said}, the dataset's is {meant}"
    if not differs and _plain(about.dataset) != _plain(expected.dataset):
        try:
            changes = configuration.differences(Configuration.from_plain(about.dataset))[:3]
        except (KeyError, TypeError, ValueError):
            changes = []
        yield "dataset", f"is of another dataset ({'; '.join(changes) or 'it says none'})"


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _counts(
    evidence: Evidence, number: int, rows: ShardRows, about: ShardAbout
) -> Iterator[tuple[str, Any, Any]]:
    """(field, as the manifest states it, as it was counted) where they differ."""
    entry = evidence.entries.get(number)
    if entry is None:
        return
    listed = [(row.row, row.reason) for row in entry.unreadable]
    for name, stated, counted in (
        ("variant", entry.variant, number % len(evidence.configuration.variants)),
        ("rows", entry.rows, len(rows)),
        ("successes", entry.successes, rows.successes),
        ("correct", entry.correct, rows.correct),
        ("unreadable", listed, [tuple(row) for row in about.unreadable]),
    ):
        if stated != counted:
            yield name, stated, counted


def rows_where(
    loaded: Loaded,
    wrong: Mask,
    kind: str,
    column: str,
    say: Callable[[int], str],
    *,
    start: int = 0,
) -> Iterator[Finding]:
    """A finding for each row where `wrong` holds; `say` is given its place in `wrong`."""
    rows = loaded.rows
    assert rows is not None
    for place in np.flatnonzero(wrong).tolist():
        row = start + place
        yield Finding(
            kind=kind,
            fault="shard",
            shard=loaded.number,
            row=row,
            source_row=int(rows.source_row[row]),
            sample_id=int(rows.sample_id[row]),
            column=column,
            message=say(place),
        )


def identities(
    loaded: Loaded, plan: Plan, *, labels: torch.Tensor | None, own_class: int | None
) -> Iterator[Finding]:
    """Rows that are there twice, that belong elsewhere, or that are missing.

    Args:
        loaded: the shard.
        plan: which rows it is to hold.
        labels: (N,) of the source, or None where it is not at hand.
        own_class: the class that the attack aims every row at: rows of it are left out.
    """
    assert loaded.rows is not None
    source, ids = (found.numpy() for found in plan.rows_of(plan.job(loaded.number)))
    given = np.stack([loaded.rows.source_row, loaded.rows.sample_id], 1)
    planned = np.stack([source, ids], 1)
    left_out = np.isin(source, list(loaded.unreadable))
    for row in sorted(loaded.unreadable - set(source.tolist())):
        text = f"source row {row} is listed as unreadable, and is none of the shard's"
        yield Finding(kind="identity", fault="shard", shard=loaded.number, message=text)
    if own_class is not None:
        aimed = None if labels is None else labels[torch.from_numpy(source)].numpy() == own_class
        # without the labels a row that is missing may be of the class that is aimed at
        absent = ~np.isin(ids, loaded.rows.sample_id)
        left_out = left_out | (absent if aimed is None else aimed)
    expected = planned[~left_out]
    if np.array_equal(given, expected):
        return
    yield from _differences(loaded, given, expected)


def _differences(loaded: Loaded, given: NDArray[Any], expected: NDArray[Any]) -> Iterator[Finding]:
    pairs, places = [tuple(pair) for pair in given.tolist()], dict[tuple[int, ...], int]()
    wanted = {tuple(pair): place for place, pair in enumerate(expected.tolist())}
    twice, foreign = np.zeros(len(pairs), bool), np.zeros(len(pairs), bool)
    for row, pair in enumerate(pairs):
        foreign[row] = pair not in wanted
        twice[row] = pair in places
        places.setdefault(pair, row)

    def copy(row: int) -> str:
        return f"the same source row and sample id as row {places[pairs[row]]}"

    def stray(row: int) -> str:
        return "its source row and sample id belong into no row of this shard"

    yield from rows_where(loaded, twice, "identity", "sample_id", copy)
    yield from rows_where(loaded, foreign & ~twice, "identity", "sample_id", stray)
    for row, sample in sorted(set(wanted) - set(pairs), key=wanted.__getitem__):
        yield Finding(
            kind="identity",
            fault="shard",
            shard=loaded.number,
            source_row=row,
            sample_id=sample,
            message=f"source row {row}, sample {sample} has no row",
        )
    if not (twice.any() or foreign.any()) and len(pairs) == len(wanted):
        first = int(np.flatnonzero((given != expected).any(1))[0])
        moved = np.arange(len(pairs)) == first
        text = "the rows are in another order from here on"
        yield from rows_where(loaded, moved, "identity", "sample_id", lambda _: text)

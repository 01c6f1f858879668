"""What a dataset says of itself before any row is looked at: by its manifest, or its shards."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deitsec.generation.finding import Finding
from deitsec.generation.folder import stored_selection
from deitsec.generation.plan import Plan
from deitsec.generation.provenance import file_sha256
from deitsec.json_schema import schema_fault
from deitsec.shards import (
    MANIFEST,
    Configuration,
    Manifest,
    ShardEntry,
    ShardError,
    load_manifest_schema,
    read_manifest,
    shard_name,
)
from deitsec.shards.extra import require_extra
from deitsec.shards.layout import shard_numbers
from deitsec.shards.shard_file import read_about


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Evidence:
    """What a dataset is said to be.

    Attributes:
        folder: of the dataset.
        configuration: of the manifest, or, where that is lost or wrong, of the shards.
        manifest: None where it cannot be read.
        trusted: whether `configuration` is the manifest's.
        plan: None where the rows that were picked are lost.
        numbers: of the shards there are, ascending.
        findings: what is wrong so far.
    """

    folder: Path
    configuration: Configuration
    manifest: Manifest | None
    trusted: bool
    plan: Plan | None
    numbers: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def total(self) -> int:
        """Shards of the whole dataset; where the plan is lost, as the manifest counts rows."""
        plan = self.configuration.plan
        return -(-plan.rows // plan.shard_rows) * len(self.configuration.variants)

    @property
    def entries(self) -> Mapping[int, ShardEntry]:
        """What the manifest says of the shards, by number."""
        return {entry.shard: entry for entry in self.manifest.shards} if self.manifest else {}


def gather(folder: Path) -> Evidence:
    """Read what a dataset says of itself.

    Raises:
        ImportError: a package is missing; the message says how to get it.
        ShardError: it says nothing that could be checked.
    """
    require_extra("shards", "pyarrow", "jsonschema")
    if not folder.is_dir():
        raise ShardError(f"{folder} is no folder: give the one of an adversarial dataset")
    numbers = tuple(shard_numbers(folder))
    findings: list[Finding] = []
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
        findings += _manifest_faults(folder, manifest)
    except ShardError as error:
        if not numbers:
            raise
        manifest = None
        findings.append(Finding(kind="manifest", fault="manifest", message=str(error)))
    configuration = None if manifest is None else manifest.configuration
    said = _said_by_shards(folder, numbers, manifest)
    if configuration is None or (said is not None and configuration.differences(said)):
        if said is None:
            raise ShardError(
                f"{folder / MANIFEST} is broken, and the shards do not agree on what the dataset "
                "is: bring back a copy of the manifest, or generate the dataset again"
            )
        if configuration is not None:
            findings.append(_against(configuration, said))
        place = None if configuration is None else configuration.source
        uri, name = ("", "") if place is None else (place.uri, place.name)
        configuration = Configuration.from_plain(said.plain(), uri, name)
    trusted = manifest is not None and configuration is manifest.configuration
    plan, lost = _plan(folder, configuration)
    return Evidence(
        folder=folder,
        configuration=configuration,
        manifest=manifest,
        trusted=trusted,
        plan=plan,
        numbers=numbers,
        findings=(*findings, *lost),
    )


def _against(configuration: Configuration, said: Configuration) -> Finding:
    changes = "; ".join(configuration.differences(said)[:5])
    text = f"{MANIFEST} is of another dataset than its shards, whose bytes it knows: {changes}"
    return Finding(kind="manifest", fault="manifest", column="configuration", message=text)


def _said_by_shards(
    folder: Path, numbers: tuple[int, ...], manifest: Manifest | None
) -> Configuration | None:
    """The configuration on which the shards agree; None where they do not, or say nothing.

    Against a manifest that can be read only those shards are heard whose bytes it knows: of the
    others it is them who may be wrong. The first that confirms it ends the matter.
    """
    known = {entry.shard: entry.sha256 for entry in manifest.shards} if manifest else {}
    found: dict[str, Configuration] = {}
    for number in numbers:
        path = folder / shard_name(number)
        try:
            about, _ = read_about(path)
            said = Configuration.from_plain(about.dataset)
        except (ShardError, KeyError, TypeError, ValueError):
            continue
        if manifest is not None:
            if not manifest.configuration.differences(said):
                return said
            if known.get(number) != file_sha256(path):
                continue
        found[json.dumps(about.dataset, sort_keys=True)] = said
    return next(iter(found.values())) if len(found) == 1 else None


def _manifest_faults(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """What the manifest is by its schema, and what it adds up against what it lists.

    Raises:
        ShardError: it holds values of another type.
    """
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    if fault := schema_fault(document, load_manifest_schema()):
        where, why = fault
        text = f"{MANIFEST} does not fit its schema at{where}: {why}"
        yield Finding(kind="manifest", fault="manifest", message=text)
    stated: Any = document.get("totals")
    try:
        found = manifest.to_json()["totals"]
    except (TypeError, ValueError) as error:
        raise ShardError(f"{folder / MANIFEST} holds values of another type ({error})") from None
    for name, value in found.items():
        given = stated.get(name) if isinstance(stated, dict) else None
        if given != value and not (name == "seconds" and _close(given, value)):
            text = f"{MANIFEST} states {given} {name} in all, and lists {value}"
            yield Finding(kind="manifest", fault="manifest", column=f"totals.{name}", message=text)
    listed = Counter(entry.shard for entry in manifest.shards)
    for number in sorted(shard for shard, times in listed.items() if times > 1):
        text = f"{MANIFEST} lists shard {number} more than once"
        yield Finding(kind="manifest", fault="manifest", shard=number, message=text)


def _close(given: Any, value: float) -> bool:
    return isinstance(given, int | float) and abs(given - value) <= 1e-6 * max(1.0, abs(value))


def _plan(folder: Path, configuration: Configuration) -> tuple[Plan | None, list[Finding]]:
    try:
        selection = stored_selection(folder, configuration)
    except ShardError as error:
        return None, [Finding(kind="selection", fault="selection", message=str(error))]
    try:
        return Plan.of(configuration, selection), []
    except (TypeError, ValueError) as error:
        raise ShardError(f"the manifest's plan cannot be: {error}") from None

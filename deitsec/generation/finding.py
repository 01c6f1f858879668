"""What is wrong with a dataset, as plain records, and how many of them are kept."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

# what is to be mended: a shard is made again, the manifest written again from the shards
Fault = Literal["shard", "manifest", "selection", "extra"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: `manifest`, `selection`, `missing`, `extra`, `size`, `hash`, `parquet`, `metadata`,
            `count`, `identity`, `label`, `clean_image`, `ball`, `distance`, `prediction`,
            `confidence`, `target`, `success` or `unreadable`.
        fault: what has to be mended.
        message: one line: what is stated, and what was found.
        shard: its number, or None where none is meant.
        row: of the shard, from 0, or None where the whole shard is meant.
        source_row: of the source's split, where a row is meant.
        sample_id: of the row.
        column: of the row, or the field.
    """

    kind: str
    fault: Fault
    message: str
    shard: int | None = None
    row: int | None = None
    source_row: int | None = None
    sample_id: int | None = None
    column: str | None = None

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.shard is None:
            return "dataset"
        place = f"shard {self.shard}"
        if self.row is not None:
            place += f", row {self.row}"
        if self.source_row is not None:
            place += f" (source row {self.source_row}, sample {self.sample_id})"
        return place

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Ledger:
    """Takes findings, and keeps the first of each kind.

    Args:
        keep: how many of a kind are kept; None keeps all, some 500 bytes each.

    Attributes:
        kept: the findings kept, in their order.
        counts: of all of them, by kind.
        wrong_shards: numbers of the shards that have to be made again.
        wrong_entries: numbers of the shards whose entry in the manifest is wrong.
    """

    def __init__(self, keep: int | None) -> None:
        self.keep = keep
        self.kept: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.wrong_shards: set[int] = set()
        self.wrong_entries: set[int] = set()

    def take(self, findings: Iterable[Finding]) -> int:
        """Take findings; how many there were."""
        taken = 0
        for finding in findings:
            taken += 1
            self.counts[finding.kind] += 1
            if finding.shard is not None and finding.fault == "shard":
                self.wrong_shards.add(finding.shard)
            if finding.shard is not None and finding.fault == "manifest":
                self.wrong_entries.add(finding.shard)
            if self.keep is None or self.counts[finding.kind] <= self.keep:
                self.kept.append(finding)
        return taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a look at every row of a dataset came to.

    Attributes:
        folder: of the dataset.
        shards: that were read.
        rows: that were read.
        findings: what is wrong: the first of each kind, as many as were asked for.
        counts: how many there are of each kind.
        wrong_shards: numbers of the shards that are wrong or missing.
        wrong_entries: numbers of the shards whose entry in the manifest is wrong.
        borderline: rows whose class or success another order of summation may turn: a class that is
            ahead by less than the numeric tolerance. They are not wrong.
        borderline_rows: (shard, row) of the first of them.
        checked: how many rows each check was made on, by its name.
        unchecked: what could not be checked, and why, a line each.
        seconds: wall clock.
    """

    folder: str
    shards: int
    rows: int
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    wrong_shards: tuple[int, ...]
    wrong_entries: tuple[int, ...]
    borderline: int
    borderline_rows: tuple[tuple[int, int], ...]
    checked: Mapping[str, int]
    unchecked: tuple[str, ...]
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, in what could be checked."""
        return not self.counts

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"sound": self.sound, **asdict(self)}

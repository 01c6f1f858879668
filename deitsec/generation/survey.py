"""Goes through the rows of one shard after the other, and adds up what was checked."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from deitsec.data import ImageSet
from deitsec.generation.evidence import Evidence
from deitsec.generation.finding import Ledger
from deitsec.generation.prediction_proof import Judge, check_predictions
from deitsec.generation.row_proof import Part, check_rows, part_of, unreadable_after_all
from deitsec.generation.shard_proof import Loaded, identities

_CHUNK_ROWS, _CHUNK_VALUES = 256, 1 << 23  # looked at together, or one batch of the model
_SHOWN = 20


def _counter() -> Counter[str]:
    return Counter()


@dataclass(kw_only=True, slots=True)
class Survey:
    """What was found so far.

    Attributes:
        evidence: what the dataset is said to be.
        source: the split that was attacked, or None.
        judges: who predicts again, by variant.
        ledger: takes what is wrong.
        checked: rows by the check that was made on them.
        borderline: rows whose class or success hangs on the order of a sum.
        near: (shard, row) of the first of them.
    """

    evidence: Evidence
    source: ImageSet | None
    judges: Mapping[int, Judge]
    ledger: Ledger
    checked: Counter[str] = field(default_factory=_counter)
    borderline: int = 0
    near: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def look(self, loaded: Loaded) -> Iterator[None]:
        """Check a shard; control comes back after each few rows."""
        self.ledger.take(loaded.findings)
        self.checked["hashed shards"] += loaded.hashed
        if loaded.rows is None:
            return
        variants = self.evidence.configuration.variants
        variant = loaded.number % len(variants)
        if self.evidence.plan is not None:
            own = variants[variant].target
            labels = None if self.source is None else self.source.labels
            found = identities(loaded, self.evidence.plan, labels=labels, own_class=own)
            self.ledger.take(found)
            self.checked["identities"] += len(loaded.rows)
            self.checked["left out unseen"] += own is not None and labels is None
        self._look_for_unreadable(loaded)
        for start in range(0, len(loaded.rows), self._chunk()):
            stop = min(start + self._chunk(), len(loaded.rows))
            part = part_of(loaded, start, stop, self.source)
            self.ledger.take(check_rows(part, self.source, variants[variant]))
            self._note(part)
            if variant in self.judges:
                self._judge(part, self.judges[variant])
            yield

    def _look_for_unreadable(self, loaded: Loaded) -> None:
        """Rows that the shard leaves out as unreadable must be so."""
        if self.source is None:
            self.checked["unreadable unseen"] += len(loaded.unreadable)
        else:
            self.ledger.take(unreadable_after_all(loaded, self.source))
            self.checked["unreadable"] += len(loaded.unreadable)

    def _chunk(self) -> int:
        options, shape = (
            self.evidence.configuration.options,
            self.evidence.configuration.source.shape,
        )
        batch = int(options["batch_size"])
        rows = min(_CHUNK_ROWS, _CHUNK_VALUES // (shape[0] * shape[1] * shape[2]))
        return batch * max(1, rows // batch)

    def _note(self, part: Part) -> None:
        rows, known = part.stop - part.start, int(part.known.sum())
        self.checked["rows"] += rows
        self.checked["labels"] += rows if self.source is not None else 0
        self.checked["distances"] += known
        self.checked["clean image not known"] += rows - known

    def _judge(self, part: Part, judge: Judge) -> None:
        findings, close, same = check_predictions(part, judge)
        self.ledger.take(findings)
        self.borderline += int(close.sum())
        room = _SHOWN - len(self.near)
        places = np.flatnonzero(close)[: max(0, room)].tolist()
        self.near += [(part.loaded.number, part.start + place) for place in places]
        self.checked["predictions"] += part.stop - part.start
        self.checked["clean predictions"] += int(part.known.sum())
        self.checked["confidences of the same bits"] += same

    def unchecked(self, no_source: str | None) -> Iterator[str]:
        """What was not checked, and why, a line each.

        Args:
            no_source: why the source is not at hand; None where it is.
        """
        evidence, rows = self.evidence, self.checked["rows"]
        if evidence.manifest is None:
            yield "sha256, size and counts of the shards: the manifest that states them is lost"
        elif lost := len(evidence.manifest.unreadable):
            yield f"whether {lost:,} rows could not be read when rows were picked"
        if evidence.plan is None:
            yield "which rows there should be: selection.npy is lost"
        if no_source is not None:
            yield f"labels: {no_source}"
            stored = evidence.configuration.clean_images
            if stored:
                yield f"the stored clean images, which distances are measured from: {no_source}"
            if unread := self.checked["unreadable unseen"]:
                yield f"whether {unread:,} rows listed as unreadable are so: {no_source}"
        elif self.checked["left out unseen"]:
            yield "whether the rows left out are of the class that the attack aims at"
        if hidden := self.checked["clean image not known"]:
            why = no_source or "they cannot be read from the source"
            yield f"distances and clean predictions of {hidden:,} of {rows:,} rows: {why}"
        if unjudged := rows - self.checked["predictions"]:
            yield f"predictions, confidences and successes of {unjudged:,} of {rows:,} rows: " + (
                "no model was given that can judge them"
            )

"""The pixels and the label of each row, against the image that was attacked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data import ImageSet
from deitsec.engine.rounding import ROUNDED_SLACK
from deitsec.generation.distances import LEVELS, level_distances
from deitsec.generation.finding import Finding
from deitsec.generation.reading import read_rows
from deitsec.generation.shard_proof import Loaded, Mask, rows_where
from deitsec.shards import VariantRecord
from deitsec.types import NORMS

_SHARE = 1e-5  # of a radius in L2 and L1: what the engine's fp32 distances may be off by


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Part:
    """Some rows of a shard, beside the images that were attacked.

    Attributes:
        loaded: the shard.
        start, stop: which rows of it.
        clean: (n, C, H, W) uint8 images that were attacked; zeros where they are not known.
        known: (n,) bool: whether they are.
    """

    loaded: Loaded
    start: int
    stop: int
    clean: Tensor
    known: Mask

    def column(self, name: str) -> NDArray[Any]:
        """A column of the rows."""
        return getattr(self.loaded.rows, name)[self.start : self.stop]

    @property
    def images(self) -> Tensor:
        """(n, C, H, W) uint8 adversarial images."""
        return own_tensor(self.column("image"))


def own_tensor(values: NDArray[Any]) -> Tensor:
    """A tensor of its own: the columns of a shard are views of memory that nobody may write."""
    return torch.from_numpy(values.copy())


def part_of(loaded: Loaded, start: int, stop: int, source: ImageSet | None) -> Part:
    """Find the clean images of some rows: in the source, else those that the shard stores."""
    rows = loaded.rows
    assert rows is not None
    number = len(rows.label[start:stop])
    stored = rows.clean_image
    if source is None:
        clean = np.zeros_like(rows.image[start:stop]) if stored is None else stored[start:stop]
        known = np.full(number, stored is not None)
        return Part(
            loaded=loaded,
            start=start,
            stop=stop,
            clean=own_tensor(clean),
            known=known,
        )
    wanted = own_tensor(rows.source_row[start:stop])
    inside = (wanted >= 0) & (wanted < len(source))
    found, kept, _ = read_rows(source, wanted[inside], strict=False)
    readable = inside.clone()
    readable[inside] = kept
    clean = torch.zeros((number, *rows.image.shape[1:]), dtype=torch.uint8)
    clean[readable] = found
    return Part(
        loaded=loaded, start=start, stop=stop, clean=clean, known=readable.numpy().astype(bool)
    )


def unreadable_after_all(loaded: Loaded, source: ImageSet) -> Iterator[Finding]:
    """Rows that a shard leaves out as unreadable, and that the source gives."""
    listed = torch.tensor(sorted(loaded.unreadable), dtype=torch.int64)
    listed = listed[(listed >= 0) & (listed < len(source))]
    _, kept, _ = read_rows(source, listed, strict=False)
    for row in listed[kept].tolist():
        text = f"source row {row} is listed as unreadable, and can be read"
        yield Finding(
            kind="unreadable",
            fault="shard",
            shard=loaded.number,
            source_row=row,
            message=text,
        )


def check_rows(part: Part, source: ImageSet | None, record: VariantRecord) -> Iterator[Finding]:
    """Labels and clean images as in the source, within the ball, distances as stated."""
    if source is not None:
        yield from _check_source(part, source)
    linf, l2, l1, l0 = (found.numpy() for found in level_distances(part.images, part.clean))
    found = {"linf": linf, "l2": l2, "l1": l1, "l0": l0}
    if record.eps is not None and record.norm in NORMS:
        yield from _check_ball(part, found[record.norm], record.norm, record.eps)
    for norm, again in found.items():
        column = "linf_levels" if norm == "linf" else norm
        stated = part.column(column)

        def say(
            row: int, name: str = column, stated: NDArray[Any] = stated, again: NDArray[Any] = again
        ) -> str:
            return f"{name} is stated as {stated[row]}, the pixels give {again[row]}"

        wrong = part.known & (stated != again)
        yield from rows_where(part.loaded, wrong, "distance", column, say, start=part.start)


def _check_source(part: Part, source: ImageSet) -> Iterator[Finding]:
    rows, label = part.column("source_row"), part.column("label")
    true = np.full(len(label), -1, np.int64)
    inside = (rows >= 0) & (rows < len(source))
    true[inside] = source.labels[own_tensor(rows[inside])].numpy()

    def relabelled(row: int) -> str:
        return f"labelled {label[row]}, in the source {true[row]}"

    wrong = inside & (label != true)
    yield from rows_where(part.loaded, wrong, "label", "label", relabelled, start=part.start)
    rows_there = part.loaded.rows
    assert rows_there is not None
    if rows_there.clean_image is None:
        return
    stored = rows_there.clean_image[part.start : part.stop]
    differs = (stored != part.clean.numpy()).reshape(len(stored), -1).sum(1)

    def changed(row: int) -> str:
        return f"{differs[row]} values of the stored clean image differ from the source"

    wrong = part.known & (differs > 0)
    yield from rows_where(
        part.loaded, wrong, "clean_image", "clean_image", changed, start=part.start
    )


def _check_ball(part: Part, distance: NDArray[Any], norm: str, eps: float) -> Iterator[Finding]:
    """In L-infinity whole levels, as many as the engine takes for `eps`; else what fp32 allows."""
    if norm == "linf":
        most, unit = float(np.floor((eps + ROUNDED_SLACK) * LEVELS)), "levels"
    else:
        most, unit = eps * (1 + (0 if norm == "l0" else _SHARE)), norm

    def outside(row: int) -> str:
        return f"{distance[row]} {unit} from its clean image, at most {most:.7g} are allowed"

    wrong = part.known & (distance > most)
    yield from rows_where(part.loaded, wrong, "ball", "image", outside, start=part.start)

"""Small adversarial datasets, written without a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deitsec.shards import (
    Configuration,
    Manifest,
    PlanRecord,
    ShardAbout,
    ShardEntry,
    ShardRows,
    SourceRecord,
    VariantRecord,
    write_manifest,
    write_shard,
)

SHAPE = (1, 4, 5)
NAMES = ("zero", "one", "two")


def some_rows(
    count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0, *, clean: bool = False
) -> ShardRows:
    """Random rows whose labels go round; every other attack succeeded."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (2, count, *shape), dtype=np.uint8)
    number = np.arange(count)
    return ShardRows(
        image=images[0],
        clean_image=images[1] if clean else None,
        label=(number % len(NAMES)).astype(np.int32),
        target=np.where(number % 3 == 0, -1, number % 2).astype(np.int32),
        clean_prediction=(number % len(NAMES)).astype(np.int32),
        adversarial_prediction=((number + number % 2) % len(NAMES)).astype(np.int32),
        success=number % 2 == 1,
        confidence=draw.random(count, dtype=np.float32),
        linf_levels=draw.integers(0, 9, count, dtype=np.int16),
        l2=draw.random(count, dtype=np.float32),
        l1=draw.random(count, dtype=np.float32),
        l0=draw.integers(0, 20, count, dtype=np.int32),
        queries=draw.integers(0, 99, count, dtype=np.int64),
        gradients=draw.integers(0, 99, count, dtype=np.int64),
        sample_id=(number + 1000 * seed).astype(np.int64),
        source_row=number.astype(np.int64),
    )


def write_dataset(
    folder: Path,
    counts: Sequence[int] = (5, 0, 7, 3),
    *,
    shape: tuple[int, int, int] = SHAPE,
    names: Sequence[str] = NAMES,
    variants: int = 1,
    clean: bool = False,
    complete: bool = True,
    split: str = "test",
) -> list[ShardRows]:
    """Write a dataset with so many rows a shard, and return the rows of each shard."""
    folder.mkdir(parents=True)
    shards = [some_rows(count, shape, number, clean=clean) for number, count in enumerate(counts)]
    entries: list[ShardEntry] = []
    for number, rows in enumerate(shards):
        about = ShardAbout(
            shard=number,
            shape=shape,
            attack="pgd:eps=8/255",
            model={"name": "tiny", "sha256": "ab" * 32},
            source={"name": "made up", "split": split, "sha256": "cd" * 32},
            seed=0,
            options={},
            versions={},
        )
        sha256, size = write_shard(folder, rows, about)
        entries.append(
            ShardEntry(
                shard=number,
                variant=number % variants,
                rows=len(rows),
                sha256=sha256,
                bytes=size,
                successes=int(rows.success.sum()),
                correct=len(rows),
                seconds=0.5,
            )
        )
    write_manifest(folder, _manifest(entries, shape, names, variants, complete, split, clean))
    return shards


def _manifest(
    entries: Sequence[ShardEntry],
    shape: tuple[int, int, int],
    names: Sequence[str],
    variants: int,
    complete: bool,
    split: str,
    clean: bool,
) -> Manifest:
    total = sum(entry.rows for entry in entries)
    source = SourceRecord(
        uri="npz:made_up.npz",
        name="made up",
        split=split,
        sha256="cd" * 32,
        rows=max(1, total),
        shape=shape,
        class_names=tuple(names),
    )
    plan = PlanRecord(
        rows=max(1, total // variants),
        shard_rows=max([1, *(entry.rows for entry in entries)]),
        per_class=None,
        only_correct=False,
        selection_sha256=None,
    )
    record = VariantRecord(
        attack="pgd:eps=8/255", norm="linf", eps=8 / 255, model="tiny", model_sha256="ab" * 32
    )
    configuration = Configuration(
        source=source,
        plan=plan,
        variants=(record,) * variants,
        options={"seed": 0},
        clean_images=clean,
        versions={"deitsec": "0.1.0"},
    )
    return Manifest(
        configuration=configuration,
        shards=tuple(entries),
        complete=complete,
        command=("generate", "--out", "somewhere"),
        environment={},
    )

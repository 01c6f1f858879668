"""Reading adversarial images back: shards, and the exports of the same images, interleaved."""

from typing import Any

import pytest
import torch

from benchmarks.interleave import Interleaved, Side
from benchmarks.reading import IMAGE_FOLDER, OURS, WEBDATASET, own_sides, sides, write_images
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings

LEAST = 50_000  # images of 28 x 28 a second, on one core
ROWS, SHARD_ROWS, SIDE = (600, 256, 28) if Settings.found().quick else (32_768, 4096, 28)
MANY, FEW_ROWS = (300, 2) if Settings.found().quick else (320, 128)  # more shards than stay open


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_reading_many_shards(
    dtype: str, record: Record, repeat: Repeat, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An epoch in which a batch in random order has rows of more shards than stay open."""
    folder = tmp_path_factory.mktemp("many") / "shards"
    write_images(folder, rows=MANY * FEW_ROWS, shard_rows=FEW_ROWS, shape=(1, SIDE, SIDE))
    found = own_sides(folder, getattr(torch, dtype))
    assert [run() for run in found.values()] == [MANY * FEW_ROWS] * len(found)
    timing = Interleaved({name: Side(run=run) for name, run in found.items()}, calls=1)
    repeat(timing.round)
    record.add(_row(f"{SIDE} x {SIDE}, {MANY} shards", dtype, MANY * FEW_ROWS, FEW_ROWS, timing))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_reading(
    dtype: str, record: Record, repeat: Repeat, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An epoch by each side, in batches, without workers: images a second."""
    work = tmp_path_factory.mktemp("reading")
    shape = (1, SIDE, SIDE)
    write_images(work / "shards", rows=ROWS, shard_rows=SHARD_ROWS, shape=shape)
    found = sides(work / "shards", work, getattr(torch, dtype))
    assert [run() for run in found.values()] == [ROWS] * len(found)
    timing = Interleaved({name: Side(run=run) for name, run in found.items()}, calls=1)
    repeat(timing.round)
    row = _row(f"{SIDE} x {SIDE}", dtype, ROWS, SHARD_ROWS, timing)
    speeds = row["images_per_second"]
    over = {name: speeds[OURS[2]] / speeds[name] for name in (WEBDATASET, IMAGE_FOLDER)}
    record.add({**row, "over": over})


def _row(case: str, dtype: str, rows: int, shard_rows: int, timing: Interleaved) -> dict[str, Any]:
    speeds = {name: rows / seconds for name, seconds in timing.medians().items()}
    return {
        "kind": "reading",
        "case": case,
        "dtype": dtype,
        "rows": rows,
        "shard_rows": shard_rows,
        "shape": [1, SIDE, SIDE],
        "threads": torch.get_num_threads(),
        "images_per_second": speeds,
        "rounds": timing.times,
        "disturbed": timing.disturbed,
        "targets": [
            {
                "what": f"{name}: images a second and core",
                "limit": LEAST,
                "measured": speeds[name],
                "met": speeds[name] >= LEAST,
            }
            for name in OURS
        ],
    }

"""Reading adversarial images back: shards, and the exports of the same images, interleaved."""

import pytest
import torch

from benchmarks.interleave import Interleaved, Side
from benchmarks.reading import IMAGE_FOLDER, OURS, WEBDATASET, sides, write_images
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings

LEAST = 50_000  # images of 28 x 28 a second, on one core
ROWS, SHARD_ROWS, SIDE = (600, 256, 28) if Settings.found().quick else (32_768, 4096, 28)


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
    speeds = {name: ROWS / seconds for name, seconds in timing.medians().items()}
    record.add(
        {
            "kind": "reading",
            "case": f"{SIDE} x {SIDE}",
            "dtype": dtype,
            "rows": ROWS,
            "shard_rows": SHARD_ROWS,
            "shape": list(shape),
            "threads": torch.get_num_threads(),
            "images_per_second": speeds,
            "over": {name: speeds[OURS[2]] / speeds[name] for name in (WEBDATASET, IMAGE_FOLDER)},
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
    )

"""The sides of a reading measurement: adversarial shards, and the exports of the same images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from deitsec.data import ShardDataset, ShardStream
from deitsec.generation.export import export_dataset
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

BATCH = 256
OURS = ("map-style, in order", "map-style, shuffled", "stream, shuffled")
WEBDATASET, IMAGE_FOLDER = "webdataset", "torchvision ImageFolder"
_HASH = "0" * 64


def write_images(folder: Path, *, rows: int, shard_rows: int, shape: tuple[int, int, int]) -> None:
    """A dataset of random images; what reading costs hangs on their size only."""
    folder.mkdir(parents=True)
    variant = VariantRecord(attack="none", norm="linf", eps=None, model="none", model_sha256=_HASH)
    entries: list[ShardEntry] = []
    for number, start in enumerate(range(0, rows, shard_rows)):
        count = min(shard_rows, rows - start)
        about = ShardAbout(
            shard=number,
            shape=shape,
            attack=variant.attack,
            model={"name": variant.model, "sha256": _HASH},
            source={"name": "random", "split": "test", "sha256": _HASH},
            seed=0,
            options={},
            versions={},
        )
        sha256, size = write_shard(folder, _random_rows(start, count, shape), about)
        entries.append(
            ShardEntry(
                shard=number,
                variant=0,
                rows=count,
                sha256=sha256,
                bytes=size,
                successes=0,
                correct=count,
                seconds=None,
            )
        )
    source = SourceRecord(
        uri="random",
        name="random",
        split="test",
        sha256=_HASH,
        rows=rows,
        shape=shape,
        class_names=tuple(map(str, range(10))),
    )
    plan = PlanRecord(
        rows=rows, shard_rows=shard_rows, per_class=None, only_correct=False, selection_sha256=None
    )
    configuration = Configuration(
        source=source, plan=plan, variants=(variant,), options={}, clean_images=False, versions={}
    )
    write_manifest(
        folder,
        Manifest(
            configuration=configuration,
            shards=tuple(entries),
            complete=True,
            command=(),
            environment={},
        ),
    )


def _random_rows(start: int, count: int, shape: tuple[int, int, int]) -> ShardRows:
    number = np.arange(start, start + count)
    label = (number % 10).astype(np.int32)
    zeros = np.zeros(count, np.float32)
    return ShardRows(
        image=np.random.default_rng(start).integers(0, 256, (count, *shape), dtype=np.uint8),
        clean_image=None,
        label=label,
        target=np.full(count, -1, np.int32),
        clean_prediction=label,
        adversarial_prediction=label,
        success=np.zeros(count, np.bool_),
        confidence=zeros,
        linf_levels=np.zeros(count, np.int16),
        l2=zeros,
        l1=zeros,
        l0=np.zeros(count, np.int32),
        queries=number,
        gradients=number,
        sample_id=number,
        source_row=number,
    )


def sides(folder: Path, work: Path, dtype: torch.dtype) -> dict[str, Callable[[], int]]:
    """Every side by name; each call reads an epoch in batches of `BATCH` and returns its rows.

    No side has workers: all of it is one core's work. The others decode PNG of the same images,
    grey as they are.

    Args:
        folder: the dataset.
        work: folder for the exports, made where they are missing.
        dtype: of the images; float32 in [0, 1], or uint8.
    """
    loaders: dict[str, Any] = {
        WEBDATASET: _webdataset(folder, work / "webdataset", dtype),
        IMAGE_FOLDER: _image_folder(folder, work / "image-folder", dtype),
    }
    others = {name: _epoch(loader) for name, loader in loaders.items()}
    return own_sides(folder, dtype) | others


def _epoch(loader: Any) -> Callable[[], int]:
    return lambda: sum(len(labels) for _, labels in loader)


def own_sides(folder: Path, dtype: torch.dtype) -> dict[str, Callable[[], int]]:
    """Our own sides of `sides`, which need no export."""
    rows, stream = ShardDataset(folder, dtype=dtype), ShardStream(folder, dtype=dtype)
    loaders = (
        DataLoader(rows, batch_size=BATCH),
        DataLoader(rows, batch_size=BATCH, shuffle=True),
        DataLoader(stream, batch_size=BATCH),
    )
    return {name: _epoch(loader) for name, loader in zip(OURS, loaders, strict=True)}


def _webdataset(folder: Path, out: Path, dtype: torch.dtype) -> Any:
    from webdataset.compat import WebDataset

    if not out.exists():
        export_dataset(folder, out, form="webdataset")
    urls = sorted(map(str, out.glob("*.tar")))
    dataset: Any = WebDataset(urls, shardshuffle=len(urls), seed=0)
    samples = dataset.shuffle(1000).decode("l8").to_tuple("png", "cls")
    return DataLoader(samples.map_tuple(_as(dtype)), batch_size=BATCH)


def _image_folder(folder: Path, out: Path, dtype: torch.dtype) -> Any:
    from torchvision.datasets import ImageFolder

    if not out.exists():
        export_dataset(folder, out, form="image-folder")
    load, bring = _grey, _as(dtype)
    dataset = ImageFolder(out, transform=lambda image: bring(np.asarray(image)), loader=load)
    return DataLoader(dataset, batch_size=BATCH, shuffle=True)


def _grey(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("L")


def _as(dtype: torch.dtype) -> Callable[[Any], Tensor]:
    def bring(pixels: Any) -> Tensor:
        image = torch.from_numpy(np.array(pixels))[None]
        return image.float().div_(255) if dtype == torch.float32 else image

    return bring

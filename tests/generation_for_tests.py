"""Small sources and models that adversarial datasets are made of in tests."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.data import DataError, DataSource
from deitsec.data.array_set import ArrayImageSet
from deitsec.data.digest import Hasher
from deitsec.engine import Engine
from deitsec.shards import ShardRows, read_shard, shard_name
from deitsec.shards.layout import shard_numbers
from tests.models_for_tests import conv

SIDE, CLASSES, BATCH = 6, 4, 8


def pixels(rows: int, seed: int = 0) -> Tensor:
    """(rows, 1, SIDE, SIDE) uint8; black and white values among them, at the border of the box."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randint(-40, 296, (rows, 1, SIDE, SIDE), generator=generator)
    return wide.clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Torn:
    """An image set of which some rows cannot be read."""

    whole: ArrayImageSet
    bad: tuple[int, ...] = ()
    cause: BaseException | None = None

    @property
    def labels(self) -> Tensor:
        return self.whole.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    def __len__(self) -> int:
        return len(self.whole)

    def images(self, rows: Tensor) -> Tensor:
        for row in rows.tolist():
            if row in self.bad:
                raise DataError(f"cannot decode\n../row {row}\x1b[31m") from self.cause
        return self.whole.images(rows)

    def feed(self, hasher: Hasher) -> None:
        self.whole.feed(hasher)


def source(
    rows: int = 20,
    *,
    bad: tuple[int, ...] = (),
    wrong: int = 5,
    names: tuple[str, ...] = ("a", "b", "c", "d"),
    uri: str = "made:up",
    cause: BaseException | None = None,
    name: str = "made up",
) -> DataSource:
    """Images that `conv` gets right, but for each `wrong`-th."""
    images = pixels(rows)
    with torch.no_grad():
        labels = conv(CLASSES)(images.float() / 255).argmax(1)
    labels[::wrong] = (labels[::wrong] + 1) % CLASSES
    whole = ArrayImageSet(pixels=images, labels=labels)
    split = Torn(whole=whole, bad=bad, cause=cause)
    return DataSource(uri=uri, name=name, train=None, test=split, class_names=names)


def engine(model: nn.Module | None = None, seed: int = 3, batch_size: int = BATCH) -> Engine:
    return Engine(conv(CLASSES) if model is None else model, seed=seed, batch_size=batch_size)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every shard by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("shard-*.parquet"))
    }


def rows_of(folder: Path, variant: int = 0, variants: int = 1) -> ShardRows:
    """The rows of all shards of a variant, in their order."""
    parts = [
        read_shard(folder / shard_name(number))[0]
        for number in shard_numbers(folder)
        if number % variants == variant
    ]
    names = parts[0].names
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return ShardRows(**{"clean_image": None, **joined})

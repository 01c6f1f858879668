"""MNIST and CIFAR-10, downloaded and checked by torchvision."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from deitsec.data.array_set import ArrayImageSet
from deitsec.data.errors import DataError, reason
from deitsec.data.source import DataSource
from deitsec.environment import cache_folder

# A download fails with the first three; torchvision reads a damaged file with the others.
_FAILURES = (
    OSError,
    HTTPException,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AssertionError,
    EOFError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Download:
    dataset: str  # the class in torchvision.datasets
    folder: str  # where below the root it looks for the files
    files: str  # what to put there by hand
    class_names: tuple[str, ...]


_DOWNLOADS = {
    "mnist": _Download(
        dataset="MNIST",
        folder="MNIST/raw",
        files="train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz",
        class_names=tuple(str(digit) for digit in range(10)),
    ),
    "cifar10": _Download(
        dataset="CIFAR10",
        folder="",
        files="cifar-10-python.tar.gz",
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
}


def data_root() -> Path:
    """Return where downloads are kept: $DEITSEC_DATA, else `data` in `cache_folder()`."""
    named = os.environ.get("DEITSEC_DATA")
    return Path(named).expanduser() if named else cache_folder() / "data"


def load_download(name: str, image_size: int | None) -> DataSource:
    """Load `mnist` (1 x 28 x 28) or `cifar10` (3 x 32 x 32).

    What is not in `data_root()` yet is downloaded to it; the progress goes to stderr.

    Args:
        name: a key of the table above.
        image_size: None for the size as it is, or the side to which the images are brought.

    Raises:
        DataError: if it cannot be downloaded or read; says which files to put where.
    """
    from torchvision import datasets  # pyright: ignore[reportMissingTypeStubs]

    entry = _DOWNLOADS[name]
    dataset = getattr(datasets, entry.dataset)
    root = data_root()
    try:
        train, test = (_split(dataset, root, train, image_size) for train in (True, False))
        return DataSource(
            uri=name, name=name, train=train, test=test, class_names=entry.class_names
        )
    except _FAILURES as error:
        place = f"put {entry.files} into {root / entry.folder} (replacing what is damaged there)"
        raise DataError(
            f"cannot load {name} ({reason(error)}): {place}, or use npz:FILE"
        ) from error


def _split(
    dataset: Callable[..., Any], root: Path, train: bool, image_size: int | None
) -> ArrayImageSet:
    loaded = dataset(root, train=train, download=True)
    pixels = torch.as_tensor(loaded.data)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(loaded.targets, dtype=torch.int64)
    return ArrayImageSet(pixels=pixels, labels=labels, image_size=image_size)

"""A Hugging Face dataset as a data source."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deitsec.data.decode import image_header
from deitsec.data.errors import DataError, reason
from deitsec.data.hugging_face_set import HuggingFaceImageSet, encoded_file
from deitsec.data.source import DataSource
from deitsec.shards.extra import require_extra

_TEST = ("test", "validation", "valid", "val")
_LABELS = ("label", "labels", "fine_label", "class", "target")

_Split = Any  # a datasets.Dataset


def load_hugging_face(name: str, image_size: int | None) -> DataSource:
    """Load `hf:NAME` or `hf:NAME:CONFIG` by `datasets.load_dataset`.

    NAME is a dataset of the Hub (`owner/name`), downloaded once to the cache of that library, or a
    folder that it opens, such as `deitsec generate export --to hugging-face` writes. The test
    split is `test`, else the validation split; a dataset of a single split is taken as a test
    split.

    Pixels come from the column `image`, or the first of images; classes from a ClassLabel, or from
    integers or strings in a column of such a name. Images are grey where the first test image is.
    Every one comes out with the size of that image, or image_size x image_size, and is decoded when
    it is read.

    Args:
        name: NAME or NAME:CONFIG.
        image_size: None for the size of the first test image, or the side to which all are brought.

    Raises:
        DataError: there is no such dataset, no network, no images or no classes in it.
        ImportError: datasets is not installed.
    """
    require_extra("hf", "datasets")
    splits = _chosen(name, _load(name))
    image = _column(name, splits["test"], "Image", ("image",))
    label = _column(name, splits["test"], "ClassLabel", _LABELS)
    classes, labels = _classes(name, splits, label)
    channels, *stored = image_header(encoded_file(splits["test"], image, 0), name=f"hf:{name}")
    height, width = stored if image_size is None else (image_size, image_size)
    sets = {
        split: HuggingFaceImageSet(
            rows=rows,
            column=image,
            labels=labels[split],
            shape=(channels, height, width),
            name=f"{split} of hf:{name}",
        )
        for split, rows in splits.items()
    }
    return DataSource(
        uri=f"hf:{name}",
        name=name.partition(":")[0].rstrip("/").rpartition("/")[2],
        train=sets.get("train"),
        test=sets["test"],
        class_names=classes,
    )


def _load(name: str) -> Mapping[str, _Split]:
    """All splits of a dataset, images still encoded."""
    from datasets import DatasetDict, Image, load_dataset
    from datasets.exceptions import DatasetsError

    path, _, config = name.partition(":")
    failures = (DatasetsError, OSError, ValueError, RuntimeError, TypeError, LookupError)
    try:
        found: Any = load_dataset(path, config or None)
    except failures as error:
        raise DataError(
            f"cannot load hf:{name} ({reason(error)}): give a dataset of the Hub as owner/name, or "
            "a folder that datasets.load_dataset opens"
        ) from error
    splits: Any = DatasetDict(found)
    for split, rows in splits.items():
        for column, feature in rows.features.items():
            if isinstance(feature, Image):
                splits[split] = splits[split].cast_column(column, Image(decode=False))
    return splits


def _chosen(name: str, splits: Mapping[str, _Split]) -> dict[str, _Split]:
    """The test split and, where there is one, the training split."""
    test = next((split for split in _TEST if split in splits), None)
    if test is None and len(splits) == 1:
        (test,) = splits
    if test is None:
        raise DataError(
            f"hf:{name} has the splits {', '.join(splits)}, and none of {', '.join(_TEST)}: save "
            "one of these with datasets and give its folder"
        )
    chosen = {"test": splits[test]}
    if "train" in splits and test != "train":
        chosen["train"] = splits["train"]
    for split, rows in chosen.items():
        if len(rows) == 0:
            raise DataError(f"the split {split} of hf:{name} is empty")
    return chosen


def _column(name: str, rows: _Split, kind: str, usual: tuple[str, ...]) -> str:
    """The column of a kind: of a usual name, else the first; else any that is called so."""
    of_kind = [column for column, what in rows.features.items() if type(what).__name__ == kind]
    called = [column for column in usual if column in rows.features]
    both = [column for column in called if column in of_kind]
    found = [*both, *of_kind, *(called if kind == "ClassLabel" else ())]
    if not found:
        given = ", ".join(rows.features)
        wanted = "images" if kind == "Image" else f"classes (ClassLabel, or {', '.join(usual)})"
        raise DataError(f"hf:{name} has no column of {wanted}: its columns are {given}")
    return found[0]


def _classes(
    name: str, splits: Mapping[str, _Split], label: str
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Class names, and the classes of each split as (N,) int64."""
    stored = {
        split: np.asarray(rows.with_format("numpy").select_columns([label])[:][label])
        for split, rows in splits.items()
    }
    named = getattr(splits["test"].features[label], "names", None)
    kinds = {values.dtype.kind for values in stored.values()}
    if named is None and kinds <= set("UO"):
        named = np.unique(np.concatenate(list(stored.values())).astype(str)).tolist()
        stored = {split: np.searchsorted(named, values) for split, values in stored.items()}
    elif not kinds <= set("iu"):
        raise DataError(f"column {label} of hf:{name} must hold one class a row")
    names = named or [str(number) for number in range(1 + max(map(np.max, stored.values())))]
    if min(map(np.min, stored.values())) < 0 or max(map(np.max, stored.values())) >= len(names):
        raise DataError(f"column {label} of hf:{name} has rows without a class")
    return tuple(names), {
        split: torch.from_numpy(values.astype(np.int64)) for split, values in stored.items()
    }

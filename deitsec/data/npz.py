"""Images and labels from a NumPy archive."""

import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from deitsec.data.array_set import ArrayImageSet
from deitsec.data.errors import DataError, reason
from deitsec.data.image_set import UNLABELLED
from deitsec.data.local_path import local_path
from deitsec.data.source import DataSource

_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
_SCAN_ROWS = 1024


def load_npz(file: str, image_size: int | None) -> DataSource:
    """Load `npz:FILE`.

    The archive holds x_test and y_test, and x_train and y_train when there is a training split:
    images uint8 (N, H, W) or (N, H, W, C) with C 1 or 3, labels of any integer dtype (N,), -1 in
    y_train for an image whose class is not known. An
    optional `class_names` holds one string for each class; without it they are "0", "1", ... Other
    keys are passed over. Pickled objects are never loaded. There are max label + 1 classes, and
    each has a test image.

    Args:
        file: path of the archive; ~ is expanded.
        image_size: None for the size as it is, or the side to which the images are brought.

    Raises:
        DataError: if the archive, an array, an image or a label cannot be used.
    """
    path = local_path(file)
    with ExitStack() as stack:
        archive = _open(path, stack)
        test = _split(archive, path, "test", image_size)
        has_train = "x_train" in archive.files or "y_train" in archive.files
        train = _split(archive, path, "train", image_size) if has_train else None
        names = _class_names(archive, path) if "class_names" in archive.files else None
    if train is not None and train.shape != test.shape:
        shapes = f"{_hwc(train)} and {_hwc(test)}"
        raise DataError(
            f"{path}: x_train and x_test must hold images of one (H, W, C), got {shapes}"
        )
    splits = {"y_test": test, "y_train": train}
    labels = {key: images.labels.numpy() for key, images in splits.items() if images is not None}
    num_classes = _count_classes(path, labels, names)
    return DataSource(
        uri=f"npz:{file}",
        name=path.stem,
        train=train,
        test=test,
        class_names=names or tuple(str(label) for label in range(num_classes)),
    )


def _open(path: Path, stack: ExitStack) -> NpzFile:
    if path.is_dir():
        raise DataError(
            f"{path} is a folder, not an .npz file: use folder:{path} for a folder of images"
        )
    if not path.is_file():
        raise DataError(f"no file {path}: give the path of an .npz file, npz:FILE")
    try:
        # numpy.load leaves a file open that it opened itself and cannot read.
        file = stack.enter_context(path.open("rb"))
        if zipfile.is_zipfile(file):
            file.seek(0)
            loaded: NpzFile | NDArray[Any] = np.load(file, allow_pickle=False)
            if isinstance(loaded, NpzFile):
                return stack.enter_context(loaded)
        cause = "no zip archive, or cut short"
    except _DAMAGED as error:
        cause = reason(error)
    raise DataError(f"{path} is not an .npz file ({cause}): write it with numpy.savez_compressed")


def _read(archive: NpzFile, path: Path, key: str) -> NDArray[Any]:
    if key not in archive.files:
        found = ", ".join(archive.files) or "none"
        wanted = "x_test, y_test and, for training, x_train, y_train"
        raise DataError(f"{path}: no key {key} (keys found: {found}): save {wanted}")
    try:
        array = archive[key]
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            advice = "save a plain numeric array; pickled objects can run code and are not loaded"
            raise DataError(f"{path}: {key} is an array of objects: {advice}") from error
        raise DataError(
            f"{path}: cannot read {key} ({reason(error)}): write the file again"
        ) from error
    if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(
            f"{path}: {key} is not a NumPy array: write the file with numpy.savez_compressed"
        )
    return array


def _split(archive: NpzFile, path: Path, split: str, image_size: int | None) -> ArrayImageSet:
    x, y = f"x_{split}", f"y_{split}"
    pixels = _read(archive, path, x)
    labels = _read(archive, path, y)
    _check_pixels(pixels, f"{path}: {x}")
    _check_labels(labels, f"{path}: {y}", least=UNLABELLED if split == "train" else 0)
    if len(pixels) != len(labels):
        raise DataError(
            f"{path}: {x} has {len(pixels)} images and {y} {len(labels)} labels: save one for each"
        )
    stored = torch.as_tensor(pixels)
    stored = stored.unsqueeze(1) if stored.ndim == 3 else stored.permute(0, 3, 1, 2)
    integers = torch.as_tensor(labels.astype(np.int64))
    return ArrayImageSet(pixels=stored, labels=integers, image_size=image_size)


def _check_pixels(pixels: NDArray[Any], where: str) -> None:
    shape = pixels.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        hint = ""
        if len(shape) == 4 and shape[1] in (1, 3):
            hint = ": channels come last, so save x.transpose(0, 2, 3, 1)"
        raise DataError(
            f"{where} must be (N, H, W) or (N, H, W, C) with C 1 or 3, got {shape}{hint}"
        )
    if 0 in shape:
        advice = "save at least one image, or leave the split out"
        raise DataError(f"{where} is empty, shape {shape}: {advice}")
    if pixels.dtype == np.uint8:
        return
    advice = "save levels 0 to 255 as uint8"
    if pixels.dtype.kind == "f":
        _check_finite(pixels, where)
        low, high = float(pixels.min()), float(pixels.max())
        in_unit = low >= 0 and high <= 1
        given = f"{pixels.dtype} from {low:g} to {high:g}"
        advice = (
            "save numpy.round(x * 255).astype(numpy.uint8)"
            if in_unit
            else f"undo the scaling and {advice}"
        )
        raise DataError(f"{where} must be uint8, got {given}: {advice}")
    raise DataError(f"{where} must be uint8, got {pixels.dtype}: {advice}")


def _check_finite(pixels: NDArray[Any], where: str) -> None:
    for start in range(0, len(pixels), _SCAN_ROWS):
        block = pixels[start : start + _SCAN_ROWS].reshape(-1, pixels[0].size)
        broken = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(broken):
            kind = "NaN" if np.isnan(block[broken[0]]).any() else "infinity"
            advice = "mend the image or leave it out, and save uint8"
            raise DataError(f"{where} row {start + int(broken[0])} holds {kind}: {advice}")


def _check_labels(labels: NDArray[Any], where: str, *, least: int) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{where} must be integers, got {labels.dtype}: save the class numbers 0, 1, 2, ..."
        )
    if labels.ndim != 1:
        one_hot = labels.ndim == 2 and labels.shape[1] > 1
        advice = "y.argmax(axis=1)" if one_hot else "y.reshape(-1)"
        raise DataError(f"{where} must be (N,), got {labels.shape}: save {advice}")
    outside = np.flatnonzero((labels < least) | (labels > np.iinfo(np.int64).max))
    if len(outside):
        row = int(outside[0])
        known = "" if least == 0 else ", or -1 for an unlabelled image"
        raise DataError(
            f"{where} row {row} is {labels[row]}: labels are 0 to the number of classes - 1{known}"
        )


def _class_names(archive: NpzFile, path: Path) -> tuple[str, ...]:
    names = _read(archive, path, "class_names")
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names):
        given = f"{names.dtype} of shape {names.shape}"
        raise DataError(
            f"{path}: class_names must be (K,) strings, got {given}: save numpy.array([...], str)"
        )
    return tuple(str(name) for name in names)


def _count_classes(
    path: Path, labels: dict[str, NDArray[np.int64]], names: tuple[str, ...] | None
) -> int:
    """Return max label + 1, once every label has a name and every class a test image."""
    top = max(int(values.max()) for values in labels.values())
    if names is not None:
        _check_named(path, labels, len(names))
        top = len(names) - 1
    # Not bincount: a stray label of a billion would ask for gigabytes.
    present = np.unique(labels["y_test"])
    if len(present) <= top:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        missing = int(gaps[0]) if len(gaps) else len(present)
        advice = "add one, or renumber the classes from 0 without a gap"
        raise DataError(f"{path}: class {missing} of 0 to {top} has no image in x_test: {advice}")
    return top + 1


def _check_named(path: Path, labels: dict[str, NDArray[np.int64]], num_names: int) -> None:
    for key, values in labels.items():
        outside = np.flatnonzero(values >= num_names)
        if len(outside):
            row = int(outside[0])
            given = f"{values[row]}, but class_names has {num_names} names"
            raise DataError(
                f"{path}: {key} row {row} is {given}: name every class, or mend the label"
            )


def _hwc(images: ArrayImageSet) -> tuple[int, int, int]:
    channels, height, width = images.pixels.shape[1:]
    return height, width, channels

"""A folder of image files with one sub-folder for each class."""

import os
from pathlib import Path

import torch

from deitsec.data.decode import image_header
from deitsec.data.errors import DataError, reason
from deitsec.data.folder_set import FolderImageSet
from deitsec.data.local_path import local_path
from deitsec.data.source import DataSource

# torchvision's ImageFolder reads the same.
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SPLITS = ("train", "test", "val")

_Found = dict[str, list[str]]  # class -> sorted paths relative to the split's folder


def load_folder(folder: str, image_size: int | None) -> DataSource:
    """Load `folder:DIR`, in one of two layouts.

    - DIR/test/CLASS/... (or, where there is no test, DIR/val/CLASS/...) and, for training,
      DIR/train/CLASS/...;
    - DIR/CLASS/...: a test split only.

    The first is taken when DIR/train, DIR/test or DIR/val holds folders itself. Classes are the
    folder names of all splits, sorted as strings; each has a test image. Rows are sorted by class,
    then by path, searched through all depths; files with another ending than an image's and names
    that begin with a dot are passed over. Every image comes out with the size of the first test
    image, or image_size x image_size.

    Args:
        folder: path of DIR; ~ is expanded.
        image_size: None for the size of the first test image, or the side to which all are brought.

    Raises:
        DataError: if the folder, a class folder or the first image cannot be used. Other images are
            decoded, and refused, when they are read.
    """
    root = local_path(folder)
    if not root.is_dir():
        raise DataError(
            f"no folder {root}: give folder:DIR with one folder of images for each class in DIR"
        )
    try:
        roots = _layout(root)
        found = {split: _find_images(below) for split, below in roots.items()}
    except OSError as error:
        raise DataError(f"cannot list {root} ({reason(error)}): make it readable") from error
    test = found["test"]
    classes = tuple(sorted({name for classes in found.values() for name in classes}))
    absent = [name for name in classes if name not in test]
    if absent:
        advice = "add it with at least one image, or remove the class from train"
        raise DataError(f"{roots['test']} has no folder for class {absent[0]!r}: {advice}")
    first = roots["test"] / test[classes[0]][0]
    size = image_header(first)[1:] if image_size is None else (image_size, image_size)
    splits = {split: _image_set(roots[split], found[split], classes, size) for split in roots}
    return DataSource(
        uri=f"folder:{folder}",
        name=root.resolve().name,
        train=splits.get("train"),
        test=splits["test"],
        class_names=classes,
    )


def _layout(root: Path) -> dict[str, Path]:
    """Return the folder of the test split and, where there is one, of the training split."""
    splits = [name for name in _SPLITS if (root / name).is_dir() and _folders(root / name)]
    if not splits:
        return {"test": root}
    if splits == ["train"]:
        advice = "add one of them, with the classes of train"
        raise DataError(
            f"{root} has train, but no test or val with a folder for each class: {advice}"
        )
    roots = {"test": root / ("test" if "test" in splits else "val")}
    return roots | ({"train": root / "train"} if "train" in splits else {})


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def _find_images(root: Path) -> _Found:
    classes = _folders(root)
    if not classes:
        raise DataError(f"{root} has no class folder: give each class a folder of its images in it")
    found = {name: _files_below(root, name) for name in classes}
    for name, paths in found.items():
        if not paths:
            raise DataError(
                f"class folder {root / name} has no image (.png, .jpg, ...): add one, or remove it"
            )
    return found


def _files_below(root: Path, name: str) -> list[str]:
    paths: list[str] = []
    for folder, folders, files in os.walk(root / name, onerror=_raise):
        folders[:] = [below for below in folders if not below.startswith(".")]
        relative = Path(folder).relative_to(root).as_posix()
        paths += [
            f"{relative}/{file}"
            for file in files
            if file.lower().endswith(_EXTENSIONS) and not file.startswith(".")
        ]
    return sorted(paths)


def _raise(error: OSError) -> None:
    raise error


def _image_set(
    root: Path, found: _Found, classes: tuple[str, ...], size: tuple[int, int]
) -> FolderImageSet:
    paths = tuple(path for name in classes for path in found.get(name, ()))
    counts = torch.tensor([len(found.get(name, ())) for name in classes])
    labels = torch.repeat_interleave(torch.arange(len(classes)), counts)
    return FolderImageSet(root=root, paths=paths, labels=labels, size=size)

"""A folder of adversarial shards as a data source."""

from pathlib import Path

from deitsec.data.errors import DataError
from deitsec.data.local_path import local_path
from deitsec.data.shard_set import ShardSet
from deitsec.data.source import DataSource
from deitsec.shards import MANIFEST, ShardError, ShardFolder


def load_shards(folder: str, image_size: int | None) -> DataSource:
    """Load `shards:DIR`, in one of two layouts.

    - DIR is a dataset of `deitsec generate`: its adversarial images are the test split;
    - DIR/test and, for training, DIR/train are such datasets, of the same classes and image size.

    All variants of a dataset take part. A dataset whose run has not ended is refused: what is
    measured on it, and its hash, would be others an hour later.

    Args:
        folder: path of DIR; ~ is expanded.
        image_size: None for the size as stored, or the side to which the images are brought.

    Raises:
        DataError: there is no complete dataset, a shard is missing or cut short, or the splits do
            not fit each other.
        ImportError: pyarrow is not installed.
    """
    root = local_path(folder)
    found = {split: _open(path) for split, path in _layout(root).items()}
    test = found["test"]
    for name in ("shape", "class_names"):
        values = {getattr(split, name) for split in found.values()}
        if len(values) > 1:
            raise DataError(
                f"{root}: train and test have another {name.replace('_', ' ')}: generate both from "
                "one source"
            )
    sets = {split: ShardSet(opened, image_size=image_size) for split, opened in found.items()}
    return DataSource(
        uri=f"shards:{folder}",
        name=root.resolve().name,
        train=sets.get("train"),
        test=sets["test"],
        class_names=test.class_names,
    )


def _layout(root: Path) -> dict[str, Path]:
    """The dataset of each split."""
    if not root.is_dir():
        raise DataError(f"no folder {root}: give shards:DIR with what `deitsec generate` wrote")
    if (root / MANIFEST).is_file():
        return {"test": root}
    splits = [name for name in ("test", "train") if (root / name / MANIFEST).is_file()]
    if "test" in splits:
        return {name: root / name for name in splits}
    if splits:
        raise DataError(
            f"{root} has train, but no dataset in {root / 'test'}: add it, or give "
            f"shards:{root / 'train'} for a test split only"
        )
    raise DataError(
        f"{root} holds no {MANIFEST}, and none in test or train: give the folder that "
        "`deitsec generate` wrote"
    )


def _open(path: Path) -> ShardFolder:
    try:
        return ShardFolder(path)
    except ShardError as error:
        raise DataError(str(error)) from error

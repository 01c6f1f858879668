"""Export to PNG files, one folder for each class: ImageFolder of torchvision and timm."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deitsec.generation.export.class_folders import class_folders
from deitsec.generation.export.pieces import pieces
from deitsec.generation.export.png import encode_pngs
from deitsec.shards import MANIFEST, ShardFolder
from deitsec.shards.shard_rows import SCALAR_COLUMNS

ROWS = "rows.csv"


def write_image_folder(folder: ShardFolder, part: Path, tick: Callable[[int], None]) -> None:
    """Write CLASS/SHARD_ROW.png for each row, and `rows.csv` with what is known of it.

    Raises:
        OSError: a file cannot be written.
        ShardError: a shard is broken.
        ValueError: a class has no image: readers, who number the classes by the folders they find,
            would give other labels.
    """
    _check_classes(folder)
    names = class_folders(folder.class_names)
    for name in names:
        (part / name).mkdir()
    shutil.copyfile(folder.path / MANIFEST, part / f"source-{MANIFEST}")
    with (part / ROWS).open("x", newline="", encoding="utf-8") as file:
        table: Any = csv.DictWriter(file, ["file", "variant", *SCALAR_COLUMNS], lineterminator="\n")
        table.writeheader()
        for piece in pieces(folder):
            files = encode_pngs(piece.columns["image"])
            for key, record, data in zip(piece.keys, piece.records, files, strict=True):
                relative = f"{names[record['label']]}/{key}.png"
                (part / relative).write_bytes(data)
                table.writerow({"file": relative, **record})
            tick(len(files))


def _check_classes(folder: ShardFolder) -> None:
    found = set(np.unique(folder.column("label")).tolist())
    missing = [name for label, name in enumerate(folder.class_names) if label not in found]
    if missing:
        raise ValueError(
            f"class {missing[0]!r} has no image here, and readers of image folders number the "
            "classes by what they find: export to webdataset or hugging-face instead"
        )

"""Export to tar files, as WebDataset reads them."""

import json
import shutil
import tarfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from deitsec.generation.export.pieces import Piece, pieces
from deitsec.generation.export.png import encode_pngs
from deitsec.shards import MANIFEST, ShardFolder


def write_web_dataset(folder: ShardFolder, part: Path, tick: Callable[[int], None]) -> None:
    """Write a tar file for each shard that has rows, numbered from `00000.tar` without a gap.

    A sample is `png`, the adversarial image; `cls`, the label; `json`, what else is known of the
    row, its class by name too; and `clean.png` where it is stored. The bytes hang on the rows
    alone, but for the versions of Pillow and WebDataset.

    Raises:
        OSError: a file cannot be written.
        ShardError: a shard is broken.
    """
    from webdataset.writer import TarWriter

    shutil.copyfile(folder.path / MANIFEST, part / f"source-{MANIFEST}")
    by_shard = groupby(pieces(folder), key=lambda piece: piece.entry.shard)
    for number, (_, some) in enumerate(by_shard):
        with (part / f"{number:05d}.tar").open("xb") as file:
            # who, when and how are of no matter, and would make other bytes each time
            tar: Any = TarWriter(
                file, user="", group="", mtime=0, encoder=False, format=tarfile.USTAR_FORMAT
            )
            for piece in some:
                for sample in _samples(piece, folder):
                    tar.write(sample)
                tick(len(piece.rows))
            tar.close()


def _samples(piece: Piece, folder: ShardFolder) -> list[dict[str, Any]]:
    images = encode_pngs(piece.columns["image"])
    samples: list[dict[str, Any]] = [
        {
            "__key__": key,
            "png": image,
            "cls": str(record["label"]).encode(),
            "json": json.dumps(
                {**record, "class": folder.class_names[record["label"]]}, sort_keys=True
            ).encode(),
        }
        for key, record, image in zip(piece.keys, piece.records, images, strict=True)
    ]
    clean = piece.columns.get("clean_image")
    if clean is not None:
        for sample, image in zip(samples, encode_pngs(clean), strict=True):
            sample["clean.png"] = image
    return samples

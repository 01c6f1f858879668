"""Export to a folder that `datasets.load_dataset` opens, with a dataset card."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deitsec.generation.export.dataset_card import dataset_card
from deitsec.generation.export.pieces import Piece, pieces
from deitsec.generation.export.png import encode_pngs
from deitsec.shards import MANIFEST, ShardFolder
from deitsec.shards.shard_rows import IMAGE_COLUMNS, SCALAR_COLUMNS

_GROUP_ROWS = 256  # read at a time by those who stream


def write_hugging_face(folder: ShardFolder, part: Path, tick: Callable[[int], None]) -> None:
    """Write data/SPLIT-00000-of-00042.parquet for each shard that has rows, and README.md.

    Images are PNG; `label` is a ClassLabel, the other columns are values, `target` null where the
    attack had none.

    Raises:
        OSError: a file cannot be written.
        ShardError: a shard is broken.
    """
    import pyarrow.parquet as pq

    features = _features(folder)
    split = folder.manifest.configuration.source.split
    shutil.copyfile(folder.path / MANIFEST, part / f"source-{MANIFEST}")
    (part / "data").mkdir()
    filled = [number for number, count in enumerate(_counts(folder)) if count]
    names = {
        folder.entries[place].shard: f"{split}-{number:05d}-of-{len(filled):05d}.parquet"
        for number, place in enumerate(filled)
    }
    writer: Any = None
    for piece in pieces(folder):
        path = part / "data" / names[piece.entry.shard]
        if not path.exists():
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(path, features.arrow_schema, compression="zstd")
        writer.write_table(_table(piece, features), row_group_size=_GROUP_ROWS)
        tick(len(piece.rows))
    writer.close()
    size = sum(path.stat().st_size for path in (part / "data").iterdir())
    card = dataset_card(folder, features, split=split, num_bytes=size)
    (part / "README.md").write_text(card, encoding="utf-8")


def _counts(folder: ShardFolder) -> list[int]:
    return (folder.starts[1:] - folder.starts[:-1]).tolist()


def _features(folder: ShardFolder) -> Any:
    from datasets import ClassLabel, Features, Image, Value

    stored = folder.manifest.configuration.clean_images
    images = {name: Image() for name in (IMAGE_COLUMNS if stored else IMAGE_COLUMNS[:1])}
    values = {name: Value(kind) for name, kind in SCALAR_COLUMNS.items()}
    label = ClassLabel(names=list(folder.class_names))
    return Features({**images, **values, "label": label, "variant": Value("int32")})


def _table(piece: Piece, features: Any) -> Any:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        name: [record[name] for record in piece.records] for name in ("variant", *SCALAR_COLUMNS)
    }
    for name in IMAGE_COLUMNS:
        if name in features:
            suffix = "" if name == "image" else "_clean"
            files = encode_pngs(piece.columns[name])
            columns[name] = [
                {"bytes": data, "path": f"{key}{suffix}.png"}
                for key, data in zip(piece.keys, files, strict=True)
            ]
    return pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)

"""A shard as a file: written whole or not at all, and read back before it gets its name."""

import hashlib
import math
from pathlib import Path
from typing import Any, BinaryIO

from deitsec.shards.layout import shard_name
from deitsec.shards.shard_error import ShardError, reason
from deitsec.shards.shard_rows import ShardAbout, ShardRows
from deitsec.whole_files import whole_file

# a page holds at most 2 GiB, and pyarrow starts another one after 20,000 rows
_PAGE_BYTES = 2**31 - 1
_GROUP_ROWS = 16384
_GROUP_BYTES = 1 << 24  # of images: what writing and reading back take is a few times that


def write_shard(folder: Path, rows: ShardRows, about: ShardAbout) -> tuple[str, int]:
    """Write a shard under its final name, when the bytes were read back and found the same.

    The bytes hang on the rows, on what the shard says of itself and on the version of pyarrow
    alone.

    Args:
        folder: of the dataset.
        rows: N >= 0 rows; N is 0 where no row of its share could be read.
        about: what the file says of itself.

    Returns:
        sha256 of the file, and its size in bytes.

    Raises:
        OSError: it cannot be written; nothing is left under its name.
        ShardError: what is read back differs from what was written.
    """
    path = folder / shard_name(about.shard)
    with whole_file(path) as part:
        with part.open("xb") as file:
            encode(rows, about, file)
        if not _holds(part, rows, about, str(path)):
            raise ShardError(f"{path}: the encoded rows differ from the rows; nothing was written")
        with part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _holds(file: Path, rows: ShardRows, about: ShardAbout, where: str) -> bool:
    """Whether a file holds some rows; no more than a row group of it is in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                table: Any = parquet.read_row_group(group, use_threads=False)
                found = ShardRows.from_table(table, about, where)
                if not found.equals(rows.part(start, start + len(found))):
                    return False
                start += len(found)
            said = ShardAbout.from_metadata(parquet.metadata.metadata, where)
            return start == len(rows) and said.metadata() == about.metadata()
    except pa.ArrowException as error:
        raise ShardError(f"{where} cannot be read as Parquet ({reason(error)})") from None


def read_shard(path: Path) -> tuple[ShardRows, ShardAbout]:
    """Read a shard.

    Raises:
        ShardError: the file is missing, broken, or no shard.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from None
    return decode(data, str(path))


def read_about(path: Path) -> tuple[ShardAbout, int]:
    """What a shard says of itself, and how many rows it has, from the end of the file only.

    Raises:
        ShardError: the file is missing, broken, or no shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path} cannot be read as Parquet ({reason(error)})") from None
    return ShardAbout.from_metadata(metadata.metadata, str(path)), metadata.num_rows


def encode(rows: ShardRows, about: ShardAbout, file: BinaryIO) -> None:
    """Write the bytes of the Parquet file, a row group at a time."""
    import pyarrow.parquet as pq

    pq.write_table(
        rows.to_table(about),
        file,
        # each column of a row group is one page, so that a row is read where it lies (plain_pages)
        row_group_size=_group_rows(about),
        data_page_size=_PAGE_BYTES,
        # adversarial noise does not compress, and plain values are read by copying
        compression="none",
        use_dictionary=False,
        # of images they would be two more images a column chunk; nobody filters by them
        write_statistics=False,
        store_schema=True,
    )


def _group_rows(about: ShardAbout) -> int:
    width = max(1, math.prod(about.shape))
    return max(1, min(_GROUP_ROWS, _GROUP_BYTES // width))


def decode(data: bytes, where: str) -> tuple[ShardRows, ShardAbout]:
    """Read the bytes of a shard.

    Raises:
        ShardError: they are broken, or no shard; the message starts with `where`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table: Any = pq.read_table(pa.BufferReader(data), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{where} cannot be read as Parquet ({reason(error)})") from None
    about = ShardAbout.from_metadata(table.schema.metadata, where)
    return ShardRows.from_table(table, about, where), about

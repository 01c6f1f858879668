"""Where the values of a column lie in a Parquet file, if they lie there as they are in memory.

An uncompressed column without nulls in plain encoding is its values one behind the other, in pages
with a header each. Our shards have one page for each row group, so that a row is found by
arithmetic and read where it lies.
"""

import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_DATA_PAGE = 0
_INT32_FIELD = 0x15  # Thrift's compact protocol: the next field, of type i32


def plain_pages(file: BinaryIO, metadata: Any, name: str) -> NDArray[np.int64] | None:
    """Where the values of a fixed-size binary column lie.

    Args:
        file: open for reading.
        metadata: what pyarrow says of the file; the column is non-null.
        name: of the column.

    Returns:
        (row groups, 2) number of the group's first row, and the place of its value in the file; or
        None where the column is compressed, encoded, or cut into other pages.
    """
    place = metadata.schema.names.index(name)
    width = metadata.schema.column(place).length
    size = file.seek(0, os.SEEK_END)
    first = 0
    pages: list[tuple[int, int]] = []
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        chunk = metadata.row_group(group).column(place)
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        if not plain or not set(chunk.encodings) <= {"PLAIN", "RLE"}:
            return None
        start = chunk.data_page_offset
        end = start + chunk.total_compressed_size
        file.seek(start)
        if end > size or _first_page_bytes(file.read(16)) != rows * width:
            return None
        pages.append((first, end - rows * width))
        first += rows
    return np.array(pages, np.int64).reshape(-1, 2)


def _first_page_bytes(header: bytes) -> int | None:
    """How many bytes of values follow a page's header, or None where it is no plain data page.

    The header begins with the fields type, uncompressed size and compressed size, all i32.
    """
    values: list[int] = []
    data = iter(header)
    for _ in range(3):
        if next(data, None) != _INT32_FIELD:
            return None
        value = shift = 0
        for byte in data:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values.append(value >> 1 ^ -(value & 1))  # zigzag
    kind, uncompressed, compressed = values
    return compressed if kind == _DATA_PAGE and compressed == uncompressed else None

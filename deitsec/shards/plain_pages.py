"""Where the values of a column lie in a Parquet file, if they lie there as they are in memory.

An uncompressed column without nulls in plain encoding is its values one behind the other, in pages
with a header each. Our shards have one page for each row group, so that a row is found by
arithmetic and read by mapping the file.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DATA_PAGE = 0
_INT32_FIELD = 0x15  # Thrift's compact protocol: the next field, of type i32


def plain_pages(file: NDArray[np.uint8], metadata: Any, name: str) -> list[NDArray[Any]] | None:
    """The values of a fixed-size binary column, one (rows, width) uint8 view a row group.

    Args:
        file: its bytes.
        metadata: what pyarrow says of the file; the column is non-null.
        name: of the column.

    Returns:
        The views, or None where the column is compressed, encoded, or cut into other pages.
    """
    place = metadata.schema.names.index(name)
    width = metadata.schema.column(place).length
    views: list[NDArray[Any]] = []
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        chunk = metadata.row_group(group).column(place)
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        if not plain or not set(chunk.encodings) <= {"PLAIN", "RLE"}:
            return None
        start = chunk.data_page_offset
        end = start + chunk.total_compressed_size
        if end > len(file) or _first_page_bytes(file[start : start + 16]) != rows * width:
            return None
        views.append(file[end - rows * width : end].reshape(rows, width))
    return views


def _first_page_bytes(header: NDArray[np.uint8]) -> int | None:
    """How many bytes of values follow a page's header, or None where it is no plain data page.

    The header begins with the fields type, uncompressed size and compressed size, all i32.
    """
    values: list[int] = []
    data = iter(header.tolist())
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

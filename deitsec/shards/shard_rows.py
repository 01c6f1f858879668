"""The rows of one shard, in memory and as an Arrow table."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deitsec.shards.shard_error import ShardError

FORMAT = "deitsec-shard"
VERSION = 1
_METADATA_KEY = b"deitsec"
IMAGE_COLUMNS = ("image", "clean_image")
Array = NDArray[Any]
Table = Any  # pyarrow carries no types
Schema = Any

_COLUMNS: Mapping[str, tuple[str, bool]] = {  # Arrow type, and whether it may be null
    "label": ("int32", False),
    "target": ("int32", True),
    "clean_prediction": ("int32", False),
    "adversarial_prediction": ("int32", False),
    "success": ("bool", False),
    "confidence": ("float32", False),
    "linf_levels": ("int16", False),
    "l2": ("float32", False),
    "l1": ("float32", False),
    "l0": ("int32", False),
    "queries": ("int64", False),
    "gradients": ("int64", False),
    "sample_id": ("int64", False),
    "source_row": ("int64", False),
}

SCALAR_COLUMNS: Mapping[str, str] = {name: kind for name, (kind, _) in _COLUMNS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardAbout:
    """What a shard says of itself, in the metadata of its Parquet file.

    Nothing in it hangs on when or how fast the shard was made: a shard that is made again has the
    same bytes.

    Attributes:
        shard: its number.
        shape: (C, H, W) of the images.
        attack: the spec.
        model: name and sha256 of the weights attacked.
        source: split and sha256 of the data attacked.
        seed: of every draw.
        options: of the engine.
        versions: of the software that made it.
        unreadable: rows of the source that could not be read, and why; they have no row here.
        dataset: the configuration of the dataset that the shard is of (`Configuration.plain`), by
            which a manifest that is lost can be made again.
    """

    shard: int
    shape: tuple[int, int, int]
    attack: str
    model: Mapping[str, str]
    source: Mapping[str, str]
    seed: int
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    unreadable: tuple[tuple[int, str], ...] = ()
    dataset: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def metadata(self) -> dict[bytes, bytes]:
        """The key-value pair of the file's metadata."""
        text = {"format": FORMAT, "version": VERSION, "layout": "CHW", **dataclasses.asdict(self)}
        return {_METADATA_KEY: json.dumps(text, sort_keys=True).encode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, where: str) -> Self:
        """Read it back.

        Raises:
            ShardError: the file is no shard of this format.
        """
        try:
            text: dict[str, Any] = json.loads((metadata or {})[_METADATA_KEY])
            if (text.pop("format"), text.pop("version"), text.pop("layout")) != (
                FORMAT,
                VERSION,
                "CHW",
            ):
                raise ValueError("another format or version")
            channels, height, width = map(int, text.pop("shape"))
            unreadable = tuple((int(row), str(why)) for row, why in text.pop("unreadable"))
            return cls(shape=(channels, height, width), unreadable=unreadable, **text)
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(
                f"{where} is no {FORMAT} of version {VERSION}: so says its metadata ({error})"
            ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRows:
    """Adversarial images and what is known of each; NumPy arrays with the rows first.

    Attributes:
        image: (N, C, H, W) uint8 adversarial images.
        clean_image: (N, C, H, W) uint8, or None where they were not asked for.
        label, clean_prediction, adversarial_prediction: (N,) int32 classes; the last at the uint8
            image.
        target: (N,) int32, -1 where the attack was untargeted.
        success: (N,) bool: the goal is reached at the uint8 image.
        confidence: (N,) fp32 softmax of `adversarial_prediction`.
        linf_levels: (N,) int16 largest change of a value, in 255ths.
        l2, l1: (N,) fp32 distances, in units of [0, 1] images.
        l0: (N,) int32 how many values (of all channels) differ.
        queries, gradients: (N,) int64 forward and backward passes spent on the row.
        sample_id: (N,) int64 identity of the row, by which random numbers are drawn; no two rows of
            an attack share one.
        source_row: (N,) int64 row of the source's split.
    """

    image: Array
    clean_image: Array | None
    label: Array
    target: Array
    clean_prediction: Array
    adversarial_prediction: Array
    success: Array
    confidence: Array
    linf_levels: Array
    l2: Array
    l1: Array
    l0: Array
    queries: Array
    gradients: Array
    sample_id: Array
    source_row: Array

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.label)

    @property
    def successes(self) -> int:
        """Rows whose goal is reached."""
        return int(self.success.sum())

    @property
    def correct(self) -> int:
        """Rows that the model got right before the attack."""
        return int((self.clean_prediction == self.label).sum())

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that there are."""
        images = ("image",) if self.clean_image is None else ("image", "clean_image")
        return (*images, *_COLUMNS)

    def part(self, start: int, stop: int) -> Self:
        """The rows [start, stop), not copied."""
        cut = {name: getattr(self, name)[start:stop] for name in self.names}
        return dataclasses.replace(self, **cut)

    def equals(self, other: "ShardRows") -> bool:
        """Whether both hold the same bits."""
        return self.names == other.names and all(
            np.array_equal(_bits(getattr(self, name)), _bits(getattr(other, name)))
            for name in self.names
        )

    def to_table(self, about: ShardAbout) -> Table:
        """The Arrow table; images are fixed-size binary, the bytes of (C, H, W)."""
        import pyarrow as pa

        schema = shard_schema(about.shape, clean_images=self.clean_image is not None)
        arrays = [self._column(field.name, field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata(about.metadata()))

    def _column(self, name: str, kind: Any) -> Any:
        import pyarrow as pa

        values = np.ascontiguousarray(getattr(self, name))
        if values.ndim > 1:
            buffers = [None, pa.py_buffer(values)]
            return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), buffers)
        nobody = values == -1 if name == "target" else None
        return pa.array(values, type=kind, mask=nobody)

    @classmethod
    def from_table(cls, table: Table, about: ShardAbout, where: str) -> Self:
        """Read the columns of a table whose schema is that of `shard_schema`.

        Raises:
            ShardError: it has other columns.
        """
        check_schema(table.schema, about.shape, where)
        clean = "clean_image" in table.column_names
        columns = {name: column_values(table.column(name), name) for name in _COLUMNS}
        images = images_of(table, "image", about.shape)
        before = images_of(table, "clean_image", about.shape) if clean else None
        return cls(image=images, clean_image=before, **columns)


def shard_schema(shape: tuple[int, int, int], *, clean_images: bool = False) -> Schema:
    """The Arrow schema of a shard, without its metadata.

    Args:
        shape: (C, H, W) of the images.
        clean_images: whether the clean images are stored too.
    """
    import pyarrow as pa

    binary = pa.binary(shape[0] * shape[1] * shape[2])
    images = ("image", "clean_image") if clean_images else ("image",)
    kinds = {"int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64()}
    kinds |= {"float32": pa.float32(), "bool": pa.bool_()}
    fields = [pa.field(name, binary, nullable=False) for name in images]
    fields += [
        pa.field(name, kinds[kind], nullable=null) for name, (kind, null) in _COLUMNS.items()
    ]
    return pa.schema(fields)


def check_schema(schema: Schema, shape: tuple[int, int, int], where: str) -> None:
    """Refuse a file whose columns are not those of a shard.

    Args:
        schema: the Arrow schema of the file.
        shape: (C, H, W) of the images.
        where: the file, for the message.

    Raises:
        ShardError: it has other columns.
    """
    expected = shard_schema(shape, clean_images="clean_image" in schema.names)
    if not schema.equals(expected, check_metadata=False):
        raise ShardError(
            f"{where} has the columns {', '.join(map(_field, schema))}, expected "
            f"{', '.join(map(_field, expected))}"
        )


def column_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a column in memory.

    Raises:
        ValueError: there is no such column.
    """
    if name in IMAGE_COLUMNS:
        return np.dtype(np.uint8)
    if name not in _COLUMNS:
        known = ", ".join((*IMAGE_COLUMNS, *_COLUMNS))
        raise ValueError(f"columns must be among {known}, got {name!r}")
    return np.dtype(_COLUMNS[name][0])


def images_of(table: Table, name: str, shape: tuple[int, int, int]) -> Array:
    """A column of images, (N, C, H, W) uint8; a view of Arrow's memory where it is in one piece."""
    pieces = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[
            chunk.offset * chunk.type.byte_width : (chunk.offset + len(chunk))
            * chunk.type.byte_width
        ].reshape(-1, *shape)
        for chunk in table.column(name).chunks
        if len(chunk)
    ]
    if not pieces:
        return np.empty((0, *shape), dtype=np.uint8)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def column_values(column: Any, name: str) -> Array:
    """A column that is no image's as NumPy array; -1 for no target."""
    values = column.fill_null(-1) if name == "target" else column
    return np.asarray(values.to_numpy())


def _bits(values: Array) -> Array:
    """Floats as integers, so that NaN equals NaN and 0 is not -0."""
    return values.view(np.int32) if values.dtype == np.float32 else values


def _field(field: Any) -> str:
    return f"{field.name} {field.type}"

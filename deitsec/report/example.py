"""Images before and after an attack, for the report's picture grid, and their file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray


def _no_maps() -> NDArray[np.uint8]:
    return np.zeros((0, 2, 1, 1), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """One image before and after an attack.

    Raises:
        ValueError: when the images are not (H, W, C) uint8 of one shape with 1 or 3 channels, or
            the maps do not fit them.
    """

    row: int
    """Row of the image in the data's split."""
    label: int
    clean: NDArray[np.uint8]
    """(H, W, C)."""
    adversarial: NDArray[np.uint8]
    """(H, W, C), rounded to 8 bits."""
    clean_prediction: int
    clean_confidence: float
    """Probability of `clean_prediction`, in [0, 1]."""
    adversarial_prediction: int
    adversarial_confidence: float
    attack: str
    """Name of the attack."""
    looks: NDArray[np.uint8] = field(default_factory=_no_maps)
    """(M, 2, H, W) where the model looks on the clean and on the adversarial image, from 0 to 255:
    by its gradient and, of a vision transformer, by attention rollout; M is 0 where nobody asked.
    """

    def __post_init__(self) -> None:
        """Check the images' shapes and dtypes."""
        for name, image in (("clean", self.clean), ("adversarial", self.adversarial)):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
                raise ValueError(
                    f"{name} must be (H, W, 1 or 3) uint8, got {image.shape} {image.dtype}"
                )
        if self.clean.shape != self.adversarial.shape:
            raise ValueError(
                f"adversarial must have the shape of clean {self.clean.shape}, "
                f"got {self.adversarial.shape}"
            )
        expected = (len(self.looks), 2, *self.clean.shape[:2])
        if self.looks.dtype != np.uint8 or (len(self.looks) > 0 and self.looks.shape != expected):
            raise ValueError(
                f"looks must be (maps, 2, H, W) uint8 of the images' size {self.clean.shape[:2]}, "
                f"got {self.looks.shape} {self.looks.dtype}"
            )


def pack_examples(examples: Sequence[Example]) -> bytes:
    """Write examples of one image shape as an npz file: one array a field, rows first."""
    columns = {
        column.name: np.stack([np.asarray(getattr(example, column.name)) for example in examples])
        for column in fields(Example)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def unpack_examples(content: bytes) -> tuple[Example, ...]:
    """Read examples that `pack_examples` wrote; nothing in the file is executed."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        columns = {column.name: file[column.name] for column in fields(Example)}
    rows = zip(*columns.values(), strict=True)
    return tuple(
        Example(
            **{
                name: value if value.ndim else value.item()
                for name, value in zip(columns, row, strict=True)
            }
        )
        for row in rows
    )

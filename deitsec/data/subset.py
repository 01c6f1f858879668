"""Some rows of an image set, as a set of their own."""

from dataclasses import dataclass

from torch import Tensor

from deitsec.data.image_set import ImageSet, check_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """Rows of another set, read from it when they are asked for.

    Attributes:
        base: where the images are.
        rows: (N,) int64 on the CPU, rows of `base` in the order that they get here, N >= 1.

    Raises:
        TypeError: `rows` of another kind.
        ValueError: no row, or one that `base` does not have.
    """

    base: ImageSet
    rows: Tensor

    def __post_init__(self) -> None:
        """Check the rows."""
        check_rows(self.rows, len(self.base))
        if len(self.rows) == 0:
            raise ValueError("a subset needs at least one row, got none")

    @property
    def labels(self) -> Tensor:
        """Classes, (N,) int64 on the CPU."""
        return self.base.labels[self.rows]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.base.shape

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of `rows` of this subset, (n,) int64, as (n, C, H, W) uint8."""
        check_rows(rows, len(self))
        return self.base.images(self.rows[rows])

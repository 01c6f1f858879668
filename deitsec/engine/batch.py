"""The rows that go through the model together."""

from dataclasses import dataclass

from torch import Tensor

from deitsec.engine.kept import Kept
from deitsec.types import Problem, State


@dataclass(kw_only=True, slots=True)
class Batch:
    """A batch while an attack runs; a record that `row_batch` can move the rows of.

    Attributes:
        problem: what the attack sees.
        state: where the attack is.
        kept: the best of each row.
        rows: (B,) int64 place of each row in the wave.
        variants: (B,) int64 which try of its row it is.
        real: (B,) bool, False for a row that only fills the batch.
        forwards, backwards: passes that every row has had.
    """

    problem: Problem
    state: State
    kept: Kept
    rows: Tensor
    variants: Tensor
    real: Tensor
    forwards: int = 0
    backwards: int = 0

    def __len__(self) -> int:
        """Rows, those that only fill it included."""
        return self.rows.shape[0]

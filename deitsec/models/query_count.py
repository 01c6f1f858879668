"""How often a model was asked, and the budget that this is held to."""

from typing import Any, Self


class QueryBudgetError(ValueError):
    """A question that the budget of a black box has no room for."""


class QueryCount:
    """Counts images asked about, each row of a batch as one.

    A copy is the same count: whoever copies a model to ask the copy pays from the same budget.

    Args:
        budget: most rows that may be asked about, >= 1; None sets no limit.

    Raises:
        TypeError: a budget that is no integer.
        ValueError: a budget below 1.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and (isinstance(budget, bool) or not _is_whole(budget)):
            raise TypeError(f"budget must be an integer or None, got {budget!r}")
        if budget is not None and budget < 1:
            raise ValueError(f"budget must be >= 1, got {budget}")
        self.budget = budget
        self.asked = 0

    @property
    def left(self) -> int | None:
        """Rows that may still be asked about; None without a budget."""
        return None if self.budget is None else self.budget - self.asked

    def spend(self, rows: int, name: str) -> None:
        """Count a batch, before it is asked.

        Raises:
            QueryBudgetError: more rows than are left; nothing is counted then.
        """
        if self.left is not None and rows > self.left:
            raise QueryBudgetError(
                f"{name}: the budget of {self.budget} queries is used up: {self.asked} rows were "
                f"asked about, and {rows} more are asked for; give a larger budget, fewer images "
                "or an attack that asks less"
            )
        self.asked += rows

    def __copy__(self) -> Self:
        """The same count."""
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        """The same count."""
        return self


def _is_whole(value: object) -> bool:
    return isinstance(value, int)

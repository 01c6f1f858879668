"""The result file: whole after every row, so that an interrupted run keeps what it measured."""

import json
from pathlib import Path
from typing import Any

from deitsec.whole_files import replace_files

# what tells one row of a file from another, where it is there
_NAMES = ("kind", "case", "network", "steps", "heads", "dtype", "attack", "precision")


class Record:
    """Rows under the facts that they depend on.

    Args:
        path: the file; None keeps the rows in memory only.
        facts: device, versions, commit; each row carries the commit and the date of its run.
        keep: whether rows of an earlier run stay that are not measured again.
    """

    def __init__(self, path: Path | None, facts: dict[str, Any], *, keep: bool = False) -> None:
        self.path = path
        self.facts = facts
        self.rows: list[dict[str, Any]] = []
        if keep and path is not None and path.exists():
            self.rows = json.loads(path.read_text())["rows"]

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, in the place of an older one of the same case, and write the file."""
        row = {**row, "commit": self.facts.get("commit"), "date": self.facts.get("date")}
        places = [i for i, other in enumerate(self.rows) if _name(other) == _name(row)]
        if places:
            self.rows[places[0]] = row
        else:
            self.rows.append(row)
        if self.path is not None:
            text = json.dumps({**self.facts, "rows": self.rows}, indent=1) + "\n"
            replace_files({self.path: text.encode()})


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _NAMES)

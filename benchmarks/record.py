"""The result file: whole after every row, so that an interrupted run keeps what it measured."""

import json
from pathlib import Path
from typing import Any

from deitsec.whole_files import replace_files


class Record:
    """Rows under the facts that they depend on.

    Args:
        path: the file; None keeps the rows in memory only.
        facts: device, versions, commit.
    """

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self.path = path
        self.facts = facts
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and write the file."""
        self.rows.append(row)
        if self.path is not None:
            text = json.dumps({**self.facts, "rows": self.rows}, indent=1) + "\n"
            replace_files({self.path: text.encode()})

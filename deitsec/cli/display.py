"""What people see while a command works: progress on stderr, tables on stdout."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from deitsec.generation import GenerationEvent
    from deitsec.training import TrainingEvent


class Display:
    """Rich progress bars, one a stage, made when the stage first reports."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, int]] = {}  # when a stage began, and at which row

    def rows(self, stage: str, done: int, total: int) -> None:
        """Show rows done of a stage."""
        self._show(stage, done, total, "")

    def training(self, stage: str, event: "TrainingEvent") -> None:
        """Show where a training run stands."""
        done = (event.epoch - 1) * event.steps + event.step
        loss = event.metrics.get("loss")
        note = f"epoch {event.epoch}/{event.epochs}"
        if loss is not None:
            note += f"  loss {loss:.3f}"
        accuracy = event.metrics.get("validation_accuracy")
        if accuracy is not None:
            note += f"  validation {accuracy:.1%}"
        self._show(stage, done, event.epochs * event.steps, note)

    def generation(self, event: "GenerationEvent") -> None:
        """Show where a dataset stands: its rate since this run began, and success."""
        now = time.monotonic()
        started, rows = self._began.setdefault("generating", (now, event.rows))
        note = f"{(event.rows - rows) / (now - started):,.0f} rows/s" if now > started else ""
        if event.finished_rows:
            note += f"  success {event.successes / event.finished_rows:.1%}"
        self._show("generating", event.rows, event.total, note)

    def rate(self, stage: str, done: int, total: int) -> None:
        """Show rows done of a stage, and how many a second."""
        now = time.monotonic()
        started, rows = self._began.setdefault(stage, (now, done))
        note = f"{(done - rows) / (now - started):,.0f} rows/s" if now > started else ""
        self._show(stage, done, total or done, note)

    def _show(self, stage: str, done: int, total: int, note: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)


@contextmanager
def display() -> Generator[Display]:
    """Show progress on stderr while the block runs."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Display(progress)


def summary(document: dict[str, Any]) -> "Table":
    """The table of the DeiT study: clean and each attack; precision, recall, F1, accuracy."""
    from rich.box import SIMPLE
    from rich.table import Table

    rows = document["clean"]["rows"]
    title = f"{document['model']['name']} on {document['data']['name']}, {rows} images"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("images", overflow="fold")
    for name in ("precision", "recall", "F1", "accuracy", "robust", "success"):
        table.add_column(name, justify="right", no_wrap=True)
    clean = document["clean"]
    table.add_row("clean", *_figures(clean), "", "")
    for attack in document["attacks"]:
        table.add_row(
            attack["spec"],
            *_figures(attack),
            _share(attack["robust_accuracy"]),
            _share(attack["success_rate"]),
        )
    return table


def printable(text: str) -> str:
    """Text on one line, without what a terminal would obey: names may come from anywhere."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _figures(piece: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_share(piece[name]) for name in ("precision", "recall", "f1", "accuracy"))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

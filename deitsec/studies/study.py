"""What a study is: options, a measurement that can be stopped, and a page made of its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from deitsec.data import DataSource
from deitsec.models import Classifier
from deitsec.studies.workbook import Workbook
from deitsec.training import FitResult, TrainingEvent

O = TypeVar("O")  # noqa: E741 - the options of one study
Document = Mapping[str, Any]


class Shown(Protocol):
    """Who is told how far a study is."""

    def rows(self, stage: str, done: int, total: int) -> None:
        """Rows done of a stage."""
        ...

    def training(self, stage: str, event: TrainingEvent) -> None:
        """Where a training stands."""
        ...


class Silent:
    """Nobody is."""

    def rows(self, stage: str, done: int, total: int) -> None:
        """Say nothing."""

    def training(self, stage: str, event: TrainingEvent) -> None:
        """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A study's page below its head, which is the same for all.

    Attributes:
        markdown: text and tables; a figure is shown by `![what it says](figure:NAME)`.
        figures: matplotlib figures by name, drawn under `deitsec.report.figure.plot_style`.
    """

    markdown: str
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class StudyRun(Generic[O]):
    """One run of a study: what it is to do, and where its pieces are kept.

    Attributes:
        options: of the study.
        data: the data source.
        seed: of every draw.
        device: where the networks go.
        quick: whether it is the short form on digits.
        workbook: pieces that are done.
        shown: who is told.
    """

    options: O
    data: DataSource
    seed: int
    device: str
    quick: bool
    workbook: Workbook
    shown: Shown

    def part(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A piece of the result: from the disk where it is done, else made and kept.

        Args:
            name: letters, digits, `-`, `_` and `.`; unique in the study.
            make: returns plain values that JSON can say.
        """
        return self.workbook.part(name, make)

    def network(
        self,
        name: str,
        build: Callable[[], Classifier],
        train: Callable[..., FitResult],
    ) -> Classifier:
        """A trained network in eval mode: from the disk where it is done, else trained and kept.

        An unfinished training goes on where it was.

        Args:
            name: as of a part.
            build: the untrained network, drawn from a seed.
            train: called with the network, `out=`, `resume=True` and `progress=`; trains in place.
        """

        def tell(event: TrainingEvent) -> None:
            self.shown.training(name, event)

        network = self.workbook.network(name, build, train, self.data, tell)
        return network.to(self.device).eval()

    def rows(self, stage: str) -> Callable[[int, int], None]:
        """A progress callback (rows done, rows in all) of a stage."""
        return lambda done, total: self.shown.rows(stage, done, total)


def _all_will_do(options: Any) -> None:
    """Refuse nothing."""


@dataclass(frozen=True, kw_only=True)
class Study(Generic[O]):
    """A study that one command reproduces.

    Attributes:
        name: of the command: `deitsec reproduce NAME`.
        title: of the page.
        source: what it follows: authors, title, arXiv number.
        data: the data source of the whole form.
        options: a frozen dataclass; each field is an option of the command, and its `help` metadata
            says what it does.
        quick: options of the quick form, which runs on digits.
        measure: run -> plain values; everything that the page shows.
        render: the written document, whose `found` is what `measure` gave -> page.
        free: options that decide which pieces are made, and nothing of what is in one: a run goes
            on with others of them.
        check: refuses options that the dataclass cannot judge by itself, before any work.
    """

    name: str
    title: str
    source: str
    data: str
    options: type[O]
    quick: Mapping[str, Any]
    measure: Callable[[StudyRun[O]], dict[str, Any]]
    render: Callable[[Document], Page]
    free: tuple[str, ...] = ()
    check: Callable[[O], None] = _all_will_do

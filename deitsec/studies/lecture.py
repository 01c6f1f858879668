"""A lecture as a study: topics in order, some of which are other studies in a reduced form."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from deitsec.studies.registry import study
from deitsec.studies.study import Document, Page, StudyRun
from deitsec.studies.workbook import Workbook

Found = Mapping[str, Any]

_FIGURE = re.compile(r"\(figure:([\w-]+)\)")
_HEADING = re.compile(r"^#", re.MULTILINE)


class Bench(Protocol):
    """What the topics of a lecture share: the run, and in each lecture what is trained once."""

    @property
    def run(self) -> StudyRun[Any]:
        """The run of the lecture."""
        ...


B = TypeVar("B", bound=Bench)


@dataclass(frozen=True, kw_only=True)
class Topic(Generic[B]):
    """One subject of a lecture.

    Attributes:
        name: unique in the lecture; letters, digits, `-`.
        title: its heading.
        says: what the lecture says, and what is measured of it.
        measure: bench -> plain values.
        show: those values -> page below the heading.
        short: those values -> the sentence of the summary.
    """

    name: str
    title: str
    says: str
    measure: Callable[[B], dict[str, Any]]
    show: Callable[[Found], Page]
    short: Callable[[Found], str]


def study_topic(
    name: str,
    *,
    title: str,
    says: str,
    options: Callable[[Any], Mapping[str, Any]],
    short: Callable[[Found], str],
) -> Topic[Any]:
    """A topic that is another study, measured and shown as that study is.

    Args:
        name: of the study, and of the topic.
        title, says, short: see `Topic`; `short` gets what the study found.
        options: options of the lecture -> those of the study.
    """

    def measure(bench: Bench) -> dict[str, Any]:
        run, chosen = bench.run, study(name)
        settings = chosen.options(**options(run.options))
        plain = dataclasses.asdict(settings)
        pieces = Workbook(run.workbook.folder / name, {"study": name, "options": plain})
        inner = dataclasses.replace(run, options=settings, workbook=pieces)
        found = chosen.measure(inner)  # pyright: ignore[reportArgumentType]
        run.workbook.take_over(name, pieces)
        return {"options": plain, "found": found}

    return Topic(
        name=name,
        title=title,
        says=f"{says} `deitsec reproduce {name}` has the whole of it; here it is reduced.",
        measure=measure,
        show=lambda found: study(name).render(found),
        short=lambda found: short(found["found"]),
    )


def check_topics(options: Any, topics: Sequence[Topic[Any]]) -> None:
    """Refuse options that name a topic which a lecture does not have.

    Raises:
        ValueError: the name, and those that there are.
    """
    known = [topic.name for topic in topics]
    for name in options.topics:
        if name not in known:
            raise ValueError(f"topics: unknown {name!r}; there are {', '.join(known)}")


def measure_topics(bench: B, topics: Sequence[Topic[B]]) -> dict[str, Any]:
    """Measure each topic that the options name, in turn; all where they name none."""
    chosen = bench.run.options.topics
    measured = [topic for topic in topics if not chosen or topic.name in chosen]
    return {"topics": {topic.name: topic.measure(bench) for topic in measured}}


def render_topics(document: Document, topics: Sequence[Topic[Any]]) -> Page:
    """The page: what came of each topic in a sentence, then each topic under a heading."""
    found = document["found"]["topics"]
    measured = [topic for topic in topics if topic.name in found]
    summary = "\n".join(
        f"- *{topic.title}.* "
        + (topic.short(found[topic.name]) if topic in measured else "Not measured here.")
        for topic in topics
    )
    parts, figures = [f"## In short\n\n{summary}"], dict[str, Any]()
    for topic in measured:
        page = topic.show(found[topic.name])
        body = _HEADING.sub("##", page.markdown)
        body = _FIGURE.sub(rf"(figure:{topic.name}-\1)", body)
        parts.append(f"## {topic.title}\n\n{topic.says}\n\n{body.strip()}")
        figures |= {f"{topic.name}-{key}": figure for key, figure in page.figures.items()}
    return Page(markdown="\n\n".join(parts), figures=figures)

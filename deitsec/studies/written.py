"""A study run, and its result written: JSON that says what made it, and a page made of the JSON."""

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import deitsec
from deitsec.data import load_data
from deitsec.environment import environment
from deitsec.report.figure import plot_style, png_bytes
from deitsec.studies.registry import study
from deitsec.studies.study import Document, Shown, Silent, Study, StudyRun
from deitsec.studies.tables import seconds
from deitsec.studies.workbook import Workbook
from deitsec.whole_files import replace_files

SCHEMA = "deitsec-study-1"
QUICK_DATA = "digits"
_NAME = re.compile(r"[\w.-]+")
_ODD = re.compile(r"[^\w.-]+")
_FIGURE = re.compile(r"\(figure:([\w-]+)\)")


def reproduce(
    name: str,
    *,
    data: str | None = None,
    label: str | None = None,
    out: Path = Path("studies"),
    seed: int = 0,
    quick: bool = False,
    fresh: bool = False,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    shown: Shown | None = None,
) -> dict[str, Any]:
    """Run a study, or go on with it, and write its result and its page.

    Args:
        name: of the study.
        data: a data source; None takes the study's own, or digits where it is quick.
        label: of the run, where several of one study stand beside each other.
        out: folder: `<page>.md`, and in `<page>/` the result, the figures and the pieces that are
            done (`work/`). The page is called as the study, on other data than the study's own
            `<name>-<data>`, and with the label after that.
        seed: of every draw.
        quick: the short form.
        fresh: whether pieces of an earlier run are thrown away.
        device: where the networks go, and then part of the command; None takes the CPU.
        options: of the study, by name; those left out have their defaults.
        shown: who is told how far it is.

    Returns:
        The result, as `<page>/result.json` has it.

    Raises:
        ValueError: an unknown study or option, an option out of range, a label that is no name,
            pieces in `out` that are of other settings, or a page there whose label or data are
            others, though its name is the same.
    """
    chosen = study(name)
    if label is not None and not _NAME.fullmatch(label):
        raise ValueError(f"label must be letters, digits, '.', '_' and '-', got {label!r}")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    settings = chosen.options(**({**chosen.quick, **given} if quick else given))
    chosen.check(settings)
    source = load_data(data or (QUICK_DATA if quick else chosen.data))
    folder = out / _page_name(chosen, source.name, label, quick=quick)
    if fresh:
        shutil.rmtree(folder / "work", ignore_errors=True)
    else:
        _check_own(folder / "result.json", source.name, label)
    plain = dataclasses.asdict(settings)
    identity = {
        "study": name,
        "options": {key: value for key, value in plain.items() if key not in chosen.free},
        "data": source.sha256,
        "seed": seed,
        "deitsec": deitsec.__version__,
    }
    run = StudyRun(
        options=settings,
        data=source,
        seed=seed,
        device=device or "cpu",
        quick=quick,
        workbook=Workbook(folder / "work", identity),
        shown=shown or Silent(),
    )
    found = chosen.measure(run)
    command = {
        "data": data,
        "label": label,
        "quick": quick or None,
        "seed": seed or None,
        "device": device,
        **given,
    }
    document = {
        "schema": SCHEMA,
        "study": name,
        "label": label,
        "command": _command(name, command),
        "seed": seed,
        "quick": quick,
        "options": plain,
        "data": _described(source),
        "environment": environment(device or "cpu"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": sum(run.workbook.seconds.values()),
        "parts": run.workbook.seconds,
        "models": run.workbook.models,
        "found": found,
    }
    document = json.loads(json.dumps(document, allow_nan=False))
    write_page(document, out)
    return document


def page_of(document: Document) -> tuple[str, dict[str, bytes]]:
    """The page of a result: markdown, and PNGs by name.

    Raises:
        ValueError: it is no result of a study, or of another version's.
    """
    if document.get("schema") != SCHEMA:
        raise ValueError(f"this is no result of a study: schema {document.get('schema')!r}")
    name = document["study"]
    chosen = study(name)
    called = page_name(document)
    with plot_style():
        try:
            page = chosen.render(document)
        except KeyError as error:
            raise ValueError(
                f"this result of {name} lacks {error}: another version wrote it; run it again"
            ) from error
        figures = {key: png_bytes(figure) for key, figure in page.figures.items()}
    body = _FIGURE.sub(lambda found: f"({called}/{found[1]}.png)", page.markdown)
    return f"{_head(document, chosen.title, chosen.source)}\n{body.strip()}\n", figures


def write_page(document: Document, out: Path) -> Path:
    """Write a result, its figures and, last, its page; return the page's path."""
    markdown, figures = page_of(document)
    name = page_name(document)
    page = out / f"{name}.md"
    result = json.dumps(document, indent=1, allow_nan=False) + "\n"
    files = {out / name / "result.json": result.encode()}
    files |= {out / name / f"{key}.png": content for key, content in figures.items()}
    replace_files({**files, page: markdown.encode()})
    for stale in set((out / name).glob("*.png")) - set(files):
        stale.unlink()  # of an earlier result, which had other figures
    return page


def page_name(document: Document) -> str:
    """What the page of a result is called, and the folder beside it."""
    chosen, data = study(document["study"]), document["data"]["name"]
    return _page_name(chosen, data, document.get("label"), quick=document["quick"])


def _page_name(chosen: Study[Any], data: str, label: str | None, *, quick: bool) -> str:
    other = None if quick or data == chosen.data else _ODD.sub("-", data)
    return "-".join(part for part in (chosen.name, other, label) if part)


def _check_own(result: Path, data: str, label: str | None) -> None:
    """Refuse to write over a page that is called the same and shows another run."""
    if not result.exists():
        return
    try:
        document = json.loads(result.read_text())
        there = (document["data"]["name"], document.get("label"))
    except (ValueError, KeyError, TypeError):
        return  # no result of a study, or half of one
    if there != (data, label):
        labelled = "no label" if there[1] is None else f"label {there[1]}"
        raise ValueError(
            f"{result} is of another run (data {there[0]}, {labelled}), whose page has the same "
            "name: give another --label or --out, or --fresh to write over it"
        )


def _head(document: Document, title: str, source: str) -> str:
    data, machine = document["data"], document["environment"]
    form = " (quick form)" if document["quick"] else ""
    name = page_name(document)
    return (
        f"# {title}{form}\n\nAfter {source}.\n\n"
        f"    {document['command']}\n\n"
        f"Measured {document['date'][:10]} on {data['name']} ({data['train']} training and "
        f"{data['test']} test images, sha256 {data['sha256'][:12]}), {machine['cpu']}, "
        f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, seed "
        f"{document['seed']}, {seconds(document['seconds'])}. The figures are in "
        f"[{name}/result.json]({name}/result.json), which this page is made of.\n"
    )


def _described(source: Any) -> dict[str, Any]:
    return {
        "uri": source.uri,
        "name": source.name,
        "sha256": source.sha256,
        "train": 0 if source.train is None else len(source.train),
        "test": len(source.test),
    }


def _command(name: str, options: Mapping[str, Any]) -> str:
    words = ["deitsec", "reproduce", name]
    for key, value in options.items():
        if value is None:
            continue
        option = key.replace("_", "-")
        words.append(f"--no-{option}" if value is False else f"--{option}")
        if isinstance(value, tuple | list):
            words.append(",".join(map(_text, value)))  # pyright: ignore[reportUnknownArgumentType]
        elif not isinstance(value, bool):
            words.append(_text(value))
    return shlex.join(words)


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)

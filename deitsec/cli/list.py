"""`deitsec list attacks|models|ops|data`."""

import json
from collections.abc import Sequence
from typing import Annotated

import typer

list_app = typer.Typer(
    name="list", help="List attacks, models, ops or data sources.", no_args_is_help=True
)
Pattern = Annotated[str, typer.Argument(help="Shell pattern, such as 'deit*'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Rows = Sequence[tuple[str, str]]


@list_app.command()
def attacks(pattern: Pattern = "*", as_json: AsJson = False) -> None:
    """The attacks, with their options and defaults."""
    import dataclasses

    from deitsec.attacks import list_attacks
    from deitsec.attacks.registry import attack_class

    rows: list[tuple[str, str]] = []
    for name in list_attacks(pattern):
        cls = attack_class(name)
        options = ", ".join(f"{f.name}={f.default!r}" for f in dataclasses.fields(cls) if f.init)
        rows.append((name, f"{_first_line(cls.__doc__)} [{options}]"))
    _print(rows, as_json)


@list_app.command()
def models(pattern: Pattern = "*", as_json: AsJson = False) -> None:
    """The models: the papers' networks first, then every name that timm knows."""
    from deitsec.models import list_models

    _print([(name, "") for name in list_models(pattern)], as_json)


@list_app.command()
def ops(pattern: Pattern = "*", as_json: AsJson = False) -> None:
    """The ops and their backends."""
    import fnmatch

    from deitsec.ops import list_ops

    found = [
        (name, f"{_first_line(declared.__doc__)} [{', '.join(b.name for b in declared.backends)}]")
        for name, declared in list_ops().items()
        if fnmatch.fnmatch(name, pattern)
    ]
    _print(found, as_json)


@list_app.command()
def data(as_json: AsJson = False) -> None:
    """The data sources."""
    from deitsec.data import list_sources

    _print(list(list_sources().items()), as_json)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _print(rows: Rows, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(rows), indent=2))
        return
    for name, text in rows:
        print(f"{name:<20} {text}".rstrip())

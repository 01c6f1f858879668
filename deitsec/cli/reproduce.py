"""`deitsec reproduce`: the studies, each with its own options."""

import dataclasses
import inspect
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from deitsec.cli.options import AsJson, Device, Seed, check_report_folder, choose_device

Out = Annotated[Path, typer.Option(help="Folder of the page, the result and unfinished work.")]
Quick = Annotated[bool, typer.Option("--quick", help="The short form, on digits.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Throw the pieces of an earlier run away first.")
]
StudyData = Annotated[
    str | None, typer.Option(help="A data source; the study's own by default.", metavar="URI")
]
Label = Annotated[
    str | None,
    typer.Option(help="Put behind the page's name, to keep several runs beside each other."),
]


class Studies(TyperGroup):
    """The group whose commands are made when they are asked for: a study imports PyTorch."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, and what is no study."""
        from deitsec.studies.registry import STUDIES

        return [*super().list_commands(ctx), *STUDIES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; none is an error that names the nearest."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        from deitsec.studies import study

        app = typer.Typer(add_completion=False)
        app.command(name=cmd_name)(_command_of(study(cmd_name)))
        return typer.main.get_command(app)


reproduce_app = typer.Typer(
    name="reproduce",
    cls=Studies,
    help="Train, attack and measure what a study claims, and write the page.",
    no_args_is_help=True,
)


@reproduce_app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """The studies, what they show and what they cost."""
    from deitsec.studies import STUDIES

    if as_json:
        print(json.dumps(STUDIES, indent=2))
        return
    width = max(map(len, STUDIES))
    for name, line in STUDIES.items():
        print(f"{name:{width}}  {line}")


@reproduce_app.command("render")
def render(
    result: Annotated[Path, typer.Argument(help="result.json of a study, in its folder.")],
) -> None:
    """Write the page and the figures of a result again."""
    from deitsec.studies.written import write_page

    try:
        document = json.loads(result.read_text())
    except ValueError as error:
        raise ValueError(f"{result} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{result} is no result of a study")
    print(write_page(document, result.resolve().parent.parent))


def _command_of(study: Any) -> Any:
    """A function whose signature has the options of every study, and this one's."""
    fields = dataclasses.fields(study.options)

    def command(
        data: str | None,
        label: str | None,
        quick: bool,
        out: Path,
        seed: int,
        device: str | None,
        fresh: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        from deitsec.cli.display import display
        from deitsec.studies import page_name, reproduce

        check_report_folder(out)
        given = {field.name: _read(field, options[field.name]) for field in fields}
        place = choose_device(device)
        with display() as shown:
            document = reproduce(
                study.name,
                data=data,
                label=label,
                out=out,
                seed=seed,
                quick=quick,
                fresh=fresh,
                device=None if device is None and place == "cpu" else place,
                options=given,
                shown=shown,
            )
        print(json.dumps(document, indent=2) if as_json else out / f"{page_name(document)}.md")

    shared = [
        _parameter("data", StudyData, None),
        _parameter("label", Label, None),
        _parameter("quick", Quick, False),
        _parameter("out", Out, Path("studies")),
        _parameter("seed", Seed, 0),
        _parameter("device", Device, None),
        _parameter("fresh", Fresh, False),
        _parameter("as_json", AsJson, False),
    ]
    own = [_parameter(field.name, _annotation(field, study), None) for field in fields]
    command.__signature__ = inspect.Signature([*shared, *own])  # pyright: ignore
    command.__annotations__ = {p.name: p.annotation for p in [*shared, *own]}
    command.__doc__ = f"{study.title}: {study.source}."
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _annotation(field: "dataclasses.Field[Any]", study: Any) -> Any:
    kind = str if _is_sequence(field) or _is_number(field) else field.type
    quick = study.quick.get(field.name, field.default)
    note = f"(default {_shown(field.default)}, quick {_shown(quick)})"
    text = f"{field.metadata.get('help', '')} {note}".strip()
    return Annotated[kind | None, typer.Option(help=text, show_default=False)]


def _is_sequence(field: "dataclasses.Field[Any]") -> bool:
    return isinstance(field.default, tuple)


def _is_number(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field takes a float, which may be written as 8/255."""
    return float in (field.type, *get_args(field.type)) and not _is_sequence(field)


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value of an option; several are given as 1,2,5, and fractions as 8/255."""
    from deitsec.attacks.spec import parse_number

    name = f"--{field.name.replace('_', '-')}"
    if value is not None and _is_number(field):
        return parse_number(name, value)
    if value is None or not _is_sequence(field):
        return value
    kind = get_args(field.type)[0]
    try:
        read = partial(parse_number, name) if kind is float else kind
        return tuple(read(item.strip()) for item in value.split(",") if item.strip())
    except ValueError as error:
        wanted = f"{kind.__name__}s with commas between them"
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from error

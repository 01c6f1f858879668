"""`deitsec doctor`: what works here, and why the rest does not."""

import json
from typing import Annotated, Any

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show versions, devices and every op with each backend, or the reason against it."""
    found = examine()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _show(found)


def examine() -> dict[str, Any]:
    """Versions, build, devices, and op -> backend -> `available` or the reason against it."""
    import torch

    from deitsec import native
    from deitsec.environment import environment
    from deitsec.ops import list_ops

    devices = ["cpu"] + [
        f"cuda:{index} {torch.cuda.get_device_name(index)}"
        for index in range(torch.cuda.device_count())
    ]
    return {
        "environment": environment(),
        "devices": devices,
        "build": {**native.build_record(), **native.build_info()},
        "ops": {
            name: {backend.name: backend.missing() or "available" for backend in declared.backends}
            | {"reference": "available"}
            for name, declared in list_ops().items()
        },
    }


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    facts = Table(title="Environment", show_header=False)
    for name, value in {**found["environment"], "devices": ", ".join(found["devices"])}.items():
        facts.add_row(name, str(value) if value is not None else "not installed")
    console.print(facts)
    build = Table(title="Native build", show_header=False)
    for name, value in found["build"].items():
        build.add_row(name, value if isinstance(value, str) else json.dumps(value))
    console.print(build)
    table = Table(title="Ops")
    table.add_column("op")
    table.add_column("backend")
    table.add_column("state")
    for name, backends in found["ops"].items():
        for backend, state in backends.items():
            style = "green" if state == "available" else "yellow"
            table.add_row(name, backend, f"[{style}]{state}[/]")
            name = ""
        table.add_section()
    console.print(table)

"""`deitsec bench`: how fast is it here?"""

from pathlib import Path
from typing import Annotated

import typer

GROUPS = ("ops", "attacks", "compaction", "precision", "all")


def bench(
    group: Annotated[str, typer.Argument(help=f"One of {', '.join(GROUPS)}.")] = "ops",
    rounds: Annotated[
        int | None, typer.Option(help="Interleaved rounds of each measurement.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result files, one a group.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny shapes: see that it runs, not how fast.")
    ] = False,
    benchmarks: Annotated[
        Path, typer.Option(help="The benchmarks folder of a checkout.", metavar="DIR")
    ] = Path("benchmarks"),
) -> None:
    """Measure this machine, side by side with PyTorch and other libraries."""
    import os
    import subprocess
    import sys

    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    folder = _checkout(benchmarks)
    command = [sys.executable, "-m", "benchmarks", group]
    command += [f"--rounds={rounds}"] if rounds is not None else []
    command += [f"--out={out.absolute()}"] if out is not None else []
    command += ["--quick"] * quick
    done = subprocess.run(command, cwd=folder.parent, env=dict(os.environ), check=False)
    if done.returncode:
        raise typer.Exit(1)


def _checkout(benchmarks: Path) -> Path:
    """The folder, if it holds the benchmarks."""
    folder = benchmarks.absolute()
    if not (folder / "__main__.py").is_file() or folder.name != "benchmarks":
        raise ValueError(
            f"{benchmarks} holds no benchmarks, which are not in the installed package: git clone "
            "deitsec and run this in its folder, or give --benchmarks CHECKOUT/benchmarks"
        )
    return folder

"""Options that several subcommands share."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        help="digits, mnist, cifar10, npz:FILE, folder:DIR, shards:DIR or hf:NAME.", metavar="URI"
    ),
]
Model = Annotated[
    str | None, typer.Option(help="A model name; see `deitsec list models`.", metavar="NAME")
]
Head = Annotated[
    str, typer.Option(help="Which head of a distilled DeiT answers: average, class, distillation.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.", min=0, max=2**63 - 1)]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the best there is by default.")
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize the data's images to this side.", min=1)
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights to attack: safetensors or a torch file.")
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Start from timm's published weights.")
]
Eps = Annotated[
    str | None, typer.Option(help="L-infinity radius, 8/255 say, for attacks that set none.")
]
PerClass = Annotated[int, typer.Option(help="Test images of each class.", min=1)]
BatchSize = Annotated[
    int | None, typer.Option(help="Images that go together; by default what fits.", min=1)
]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the passes that drive the attacks: fp32, tf32, bf16 or fp16; a success "
        "counts only in fp32."
    ),
]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the model first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def check_report_folder(out: Path) -> None:
    """Refuse a report's folder before any work is done.

    Raises:
        ValueError: a file, or a folder that cannot be made or written.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {out}")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"--out {out} cannot be written: {nearest} is no folder to write in")


def typed(context: typer.Context) -> str:
    """The command line as it was typed."""
    return shlex.join(["deitsec", *(context.obj or sys.argv[1:])])


def choose_device(named: str | None) -> str:
    """The device that was asked for, or the best there is.

    Raises:
        ValueError: a device that this machine does not have.
    """
    import torch

    if named is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=named)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {named!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return named

"""Options that several subcommands share."""

from typing import Annotated

import typer

Data = Annotated[
    str, typer.Option(help="digits, mnist, cifar10, npz:FILE or folder:DIR.", metavar="URI")
]
Model = Annotated[
    str | None, typer.Option(help="A model name; see `deitsec list models`.", metavar="NAME")
]
Head = Annotated[
    str, typer.Option(help="Which head of a distilled DeiT answers: average, class, distillation.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the best there is by default.")
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize the data's images to this side.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


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

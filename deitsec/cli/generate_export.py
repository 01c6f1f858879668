"""`deitsec generate export`: an adversarial dataset in the form of another library."""

import json
from pathlib import Path
from typing import Annotated

import typer

from deitsec.cli.display import display
from deitsec.cli.options import AsJson


def export(
    folder: Annotated[Path, typer.Argument(help="What `deitsec generate` wrote.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="image-folder, webdataset or hugging-face.")],
    out: Annotated[Path, typer.Option(help="Folder to write, missing or empty.")],
    only_success: Annotated[
        bool, typer.Option("--only-success", help="Only images whose attack reached its goal.")
    ] = False,
    variant: Annotated[
        int | None,
        typer.Option(help="Only this attack and model, by its place in the manifest.", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an adversarial dataset as PNG files, tar files or a Hugging Face dataset."""
    from deitsec.generation.export import export_dataset

    with display() as shown:
        done = export_dataset(
            folder,
            out,
            form=to,
            variant=variant,
            only_success=only_success,
            progress=lambda rows, total: shown.rows(f"export to {to}", rows, total),
        )
    if as_json:
        found = {"to": done.form, "out": str(done.out), "rows": done.rows}
        print(json.dumps({**found, "files": done.files, "bytes": done.bytes}, indent=2))
    else:
        print(f"{done.rows:,} images in {done.files:,} files, {done.bytes:,} bytes: {done.out}")

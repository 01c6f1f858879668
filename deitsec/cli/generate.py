"""`deitsec generate`: adversarial datasets in bulk, in a folder that is its own checkpoint."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deitsec.cli.display import display
from deitsec.cli.generate_export import export
from deitsec.cli.generated import print_summary
from deitsec.cli.options import (
    AsJson,
    BatchSize,
    Data,
    Device,
    Eps,
    Head,
    ImageSize,
    Model,
    Precision,
    Pretrained,
    Seed,
    check_report_folder,
    choose_device,
)

if TYPE_CHECKING:
    from deitsec.generation.run import Runner

generate_app = typer.Typer(
    name="generate", invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]..."
)

Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(help="Weights to attack: safetensors or a torch file; may be repeated."),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        help="pgd:eps=8/255,steps=20 or cw:steps=200; may be repeated. `deitsec list attacks` "
        "names them. [default: pgd]",
        metavar="SPEC",
        show_default=False,
    ),
]
Rows = Annotated[
    int | None,
    typer.Option(
        help="Rows of each attack and model; more than are picked take them again, with other "
        "random draws. By default each picked row once.",
        min=1,
    ),
]
Split = Annotated[str, typer.Option(help="Which split is attacked: test or train.")]
generate_app.command("export")(export)


@generate_app.callback()
def generate(
    context: typer.Context,
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoints = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    attack: Attacks = None,
    eps: Eps = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the dataset.", show_default=False)
    ] = None,
    rows: Rows = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            help="Rows of a shard. By default 4096, of large images as many as are 64 MB, but at "
            "least 64.",
            min=1,
        ),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(help="Take the first so many images of each class.", min=1)
    ] = None,
    only_correct: Annotated[
        bool, typer.Option("--only-correct", help="Leave out images that a model gets wrong.")
    ] = False,
    split: Split = "test",
    clean_images: Annotated[
        bool, typer.Option("--clean-images", help="Store the clean images too.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the dataset that is in the folder.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image that cannot be read.")
    ] = False,
    runner: Annotated[
        str, typer.Option(help="Where shards are made: local (this process) or ray.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; one of its own by default.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Of the Ray runner.", min=1)] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Of each worker of the Ray runner.", min=0)
    ] = None,
    image_size: ImageSize = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Attack a data source with every attack on every model, and write Parquet shards.

    The folder is the checkpoint: a run that was stopped, however it was, goes on with --resume and
    ends with the same bytes.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from dataclasses import replace

    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.engine import Engine
    from deitsec.engine.precision import check_precision
    from deitsec.generation import Settings
    from deitsec.generation import generate as run
    from deitsec.verification.subject import ModelRequest, obtain
    from deitsec.verification.suite import parse_attacks, suite_eps

    radius = None if eps is None else parse_number("--eps", eps)
    driven_in = check_precision(precision)
    specs = attack or ["pgd"]
    parse_attacks(specs, eps=8 / 255 if radius is None else radius)
    chosen = _runner(runner, address=address, workers=workers, gpus_per_worker=gpus_per_worker)
    settings = Settings(
        rows=rows,
        shard_rows=shard_rows,
        per_class=per_class,
        only_correct=only_correct,
        split=split,
        clean_images=clean_images,
        strict=strict,
    )
    if out is None:
        raise ValueError("--out must be given: the folder of the dataset")
    check_report_folder(out)
    place = choose_device(device)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        wanted = ModelRequest(
            name=model or (None if checkpoint else "deit_micro"),
            pretrained=pretrained,
            head=head,
            seed=seed,
            device=place,
        )
        each = [replace(wanted, checkpoint=str(path)) for path in checkpoint or []]
        models = [obtain(one, source, progress=shown.training)[0] for one in each or [wanted]]
        try:
            manifest = run(
                [
                    Engine(one, batch_size=batch_size or "auto", seed=seed, precision=driven_in)
                    for one in models
                ],
                parse_attacks(specs, eps=suite_eps(source) if radius is None else radius),
                source,
                out=out,
                settings=settings,
                resume=resume,
                runner=chosen,
                progress=shown.generation,
                command=("deitsec", *(context.obj or sys.argv[1:])),
            )
        except KeyboardInterrupt:
            print("deitsec: the finished shards stay: go on with --resume", file=sys.stderr)
            raise
    print_summary(manifest, out, as_json=as_json)


def _refuse_options(context: typer.Context) -> None:
    """Refuse options of the run before a subcommand, which would not hear of them."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        name = context.invoked_subcommand
        raise ValueError(f"{given[0]} is no option of `generate {name}`, or goes after {name}")


def _runner(
    name: str, *, address: str | None, workers: int | None, gpus_per_worker: float | None
) -> "Runner":
    from deitsec.generation.local import produce

    options = {"address": address, "workers": workers, "gpus-per-worker": gpus_per_worker}
    if name == "ray":
        from deitsec.generation.ray_runner import RayRunner

        return RayRunner(address=address, workers=workers or 2, gpus_per_worker=gpus_per_worker)
    if name != "local":
        raise ValueError(f"--runner must be local or ray, got {name!r}")
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0]} is for --runner ray")
    return produce

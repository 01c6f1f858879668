"""`deitsec generate verify`: is a dataset what it says it is, row by row?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli.display import display
from deitsec.cli.options import AsJson, Device, Head, Model, Pretrained, choose_device

if TYPE_CHECKING:
    from deitsec.generation import Proof, Repair
    from deitsec.models import Classifier
    from deitsec.shards import Configuration

WRONG = 3
_SHOWN = 20


def generate_verify(
    folder: Annotated[Path, typer.Argument(help="Of the dataset.", metavar="DIR")],
    data: Annotated[
        str | None,
        typer.Option(help="What was attacked; by default what the manifest names.", metavar="URI"),
    ] = None,
    model: Model = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights that were attacked: predict again with them. May be repeated."),
    ] = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make again exactly the shards that are wrong or missing."),
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> int:
    """Check hashes, schema and counts, and every row: its identity, label, pixels and success.

    Exits with 0 where nothing is wrong, 3 where something is, and 2 for bad input. The source
    proves labels and distances, the weights that were attacked prove predictions and success.
    """
    from deitsec.generation import repair_dataset, verify_dataset
    from deitsec.generation.evidence import gather

    keep = None if as_json else _SHOWN
    place = choose_device(device)
    with display() as shown:
        wanted = gather(folder).configuration
        models = _models(wanted, data, model, checkpoint or [], pretrained, head, place)
        if repair:
            found = repair_dataset(folder, data=data, models=models, keep=keep, progress=shown.rate)
        else:
            found = verify_dataset(
                folder,
                data=data,
                models=models,
                keep=keep,
                progress=lambda done, total: shown.rate("verify", done, total),
            )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    return 0 if found.sound else WRONG


def _models(
    configuration: "Configuration",
    data: str | None,
    name: str | None,
    checkpoints: Sequence[Path],
    pretrained: bool,
    head: str,
    device: str,
) -> "list[Classifier]":
    """The models named, made for the images and classes of the dataset."""
    from deitsec.generation.witnesses import opened
    from deitsec.models import load_model
    from deitsec.verification.subject import ModelRequest, obtain

    source = configuration.source
    if checkpoints:
        return [
            load_model(
                name,
                checkpoint=path,
                num_classes=len(source.class_names),
                in_chans=source.shape[0],
                image_size=source.shape[1],
                head=head,
            ).to(device)
            for path in checkpoints
        ]
    if name is None:
        return []
    seed = int(configuration.options["seed"])
    request = ModelRequest(name=name, pretrained=pretrained, head=head, seed=seed, device=device)
    return [obtain(request, opened(data or source.uri, configuration))[0]]


def _print(found: "Proof | Repair") -> None:
    from deitsec.generation import Repair

    if not isinstance(found, Repair):
        _print_proof(found)
        return
    _print_proof(found.before)
    for number in found.remade[:_SHOWN]:
        _say(f"shard {number} was made again")
    if len(found.remade) > _SHOWN:
        _say(f"and {len(found.remade) - _SHOWN} more shards")
    for note in found.notes:
        _say(note)
    if not found.before.sound:
        _say("after the repair:")
        _print_proof(found.after)


def _print_proof(proof: "Proof") -> None:
    for kind, count in proof.counts.items():
        listed = [finding for finding in proof.findings if finding.kind == kind]
        for finding in listed:
            _say(f"{kind}: {finding.place}: {finding.message}")
        if count > len(listed):
            _say(f"{kind}: and {count - len(listed):,} more")
    if proof.borderline:
        places = ", ".join(f"shard {shard} row {row}" for shard, row in proof.borderline_rows)
        more = "" if proof.borderline == len(proof.borderline_rows) else ", ..."
        _say(f"borderline, not wrong: {proof.borderline:,} rows ({places}{more})")
    checked = [f"{name} of {count:,}" for name, count in _done(proof).items()]
    _say(f"checked: {', '.join(checked) or 'nothing'}")
    for line in proof.unchecked:
        _say(f"not checked: {line}")
    wrong = sum(proof.counts.values())
    verdict = "sound" if proof.sound else f"{wrong:,} {'finding' if wrong == 1 else 'findings'}"
    _say(f"{proof.folder}: {verdict}; {proof.shards} shards, {proof.rows:,} rows")


def _done(proof: "Proof") -> dict[str, int]:
    """The checks that were made, by the rows that they were made on."""
    names = ("identities", "labels", "distances", "predictions", "clean predictions")
    return {name: proof.checked[name] for name in names if proof.checked.get(name)}


def _say(text: str) -> None:
    """Print text of which parts come from files, on one line and without control characters."""
    shown: Any = (letter if letter.isprintable() else " " for letter in text)
    print("".join(shown))

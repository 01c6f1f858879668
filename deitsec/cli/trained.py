"""What `deitsec train` and `deitsec distill` do when the training is done."""

import json
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deitsec.data import DataSource
    from deitsec.models import Classifier
    from deitsec.training import FitResult


def check_out(out: Path) -> None:
    """Refuse a checkpoint's name before any training is done.

    Raises:
        ValueError: a name that does not end in .safetensors, or a folder.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {out}")
    if out.is_dir():
        raise ValueError(f"--out must be a file, got the folder {out}")


def state_folder(out: Path) -> Path:
    """Where an unfinished training is kept, beside its checkpoint."""
    return out.with_suffix(".training")


def check_curves(picture: Path | None, *, adversarial: bool) -> None:
    """Refuse a picture of learning curves before any training is done.

    Raises:
        ValueError: a name that does not end in .png, or a training that measures none.
    """
    if picture is None:
        return
    if not adversarial:
        raise ValueError("--curves is for adversarial training: give --adversarial METHOD too")
    if picture.suffix != ".png":
        raise ValueError(f"--curves must end in .png, got {picture}")


@contextmanager
def last_good_kept(model: "Classifier", data: "DataSource", out: Path) -> Generator[None]:
    """Write the last good weights of a training that diverges, and say so; the error goes on."""
    from deitsec.models import save_checkpoint
    from deitsec.training import TrainingDiverged
    from deitsec.training.modes import place_of
    from deitsec.training.processes import find_processes

    try:
        yield
    except TrainingDiverged as error:
        if error.kept_epoch and find_processes(place_of(model)).first:
            why = {"diverged": str(error), "epoch": error.kept_epoch, "data": data.uri}
            save_checkpoint(model, out, training=why, class_names=data.class_names)
            print(f"deitsec: the weights of epoch {error.kept_epoch} are in {out}", file=sys.stderr)
        raise


def save_curves(result: "FitResult", picture: Path) -> None:
    """Draw the learning curves of a training to a PNG."""
    from dataclasses import asdict

    from deitsec.report.learning_curves import draw_learning_curves
    from deitsec.whole_files import replace_files

    replace_files({picture: draw_learning_curves([asdict(record) for record in result.history])})


def save_trained(
    model: "Classifier", data: "DataSource", result: "FitResult", out: Path, *, as_json: bool
) -> None:
    """Measure the model on the test split, write its checkpoint and print what came out."""
    from dataclasses import asdict

    from deitsec.metrics import classification_metrics
    from deitsec.models import save_checkpoint
    from deitsec.training import predict

    predicted = predict(model, data.test).argmax(1).cpu()
    found = asdict(classification_metrics(predicted, data.test.labels, data.num_classes))
    metrics = {name: found[name] for name in ("rows", "accuracy", "precision", "recall", "f1")}
    card = save_checkpoint(
        model,
        out,
        training={**result.config, "seconds": result.seconds, "data": data.uri},
        metrics=metrics,
        class_names=data.class_names,
    )
    shutil.rmtree(state_folder(out), ignore_errors=True)
    if as_json:
        history = [asdict(record) for record in result.history]
        print(json.dumps({"checkpoint": str(out), **asdict(card), "history": history}, indent=2))
        return
    best, last = result.best_epoch, result.history[-1]
    print(
        f"{model.name}: test accuracy {metrics['accuracy']:.4f}, precision "
        f"{metrics['precision']:.4f}, recall {metrics['recall']:.4f}, F1 {metrics['f1']:.4f} "
        f"on {metrics['rows']} images; epoch {best} of {len(result.history)}, "
        f"{result.seconds:.1f} s"
    )
    if last.note is not None:
        print(f"epoch {last.epoch}: {last.note}")
    robust = result.history[best - 1].measured.get("test_robust_accuracy") if best else None
    if robust is not None:
        attack = result.config["attack"]
        print(
            f"under PGD-{attack['watch_steps']} ({attack['norm']}, eps {attack['eps']:.4g}): "
            f"{robust:.4f} on some test images; "
            "`deitsec attack --attack reliable` says more"
        )
    print(f"checkpoint: {out} (card: {out.with_suffix('.card.json')})")

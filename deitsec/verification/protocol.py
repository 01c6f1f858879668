"""Measures the security of one model on one data source."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from deitsec.attacks import Attack, format_spec, parse_spec
from deitsec.data import DataSource, balanced_rows
from deitsec.engine import Engine
from deitsec.engine.access import access_of, check_access
from deitsec.engine.precision import Precision
from deitsec.engine.rows import check_aim
from deitsec.environment import environment
from deitsec.metrics import per_class_vulnerability
from deitsec.models import Classifier
from deitsec.report import SCHEMA, Defense, Example, Report, judge, sanity_checks
from deitsec.verification import pieces
from deitsec.verification.command import attack_command
from deitsec.verification.defended import gather, training_defense
from deitsec.verification.gallery import Gallery
from deitsec.verification.looks import with_looks
from deitsec.verification.measure import Outcome, Predictions, measure, predict
from deitsec.verification.probes import probe
from deitsec.verification.suite import Suite, default_suite

Progress = Callable[[str, int, int], None]
Piece = dict[str, Any]
_SWEEP_PER_CLASS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the model came from, for the report.

    Attributes:
        kind: `module`, `trained`, `cache`, `checkpoint` or `pretrained`.
        training: recipe and history where it was trained here.
        command: the command line of the run; None where there was none.
        subject_command: the same without attacks and gate.
    """

    kind: Literal["module", "trained", "cache", "checkpoint", "pretrained"] = "module"
    training: Piece | None = None
    command: str | None = None
    subject_command: str | None = None


def verify(
    model: Classifier,
    data: DataSource,
    attacks: Sequence[str | Attack] = (),
    *,
    eps: float | None = None,
    per_class: int = 100,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision = "fp32",
    compile: bool = False,
    sweep: bool = True,
    min_robust_accuracy: float | None = None,
    defenses: Sequence[str | Path | Defense] = (),
    origin: Origin | None = None,
    progress: Progress | None = None,
) -> Report:
    """Attack a model on balanced test images and report how safe it is.

    Args:
        model: what is measured; left as it was found.
        data: its test split is attacked.
        attacks: specs or attacks; none takes the suite (`default_suite`).
        eps: L-infinity radius for specs that set none; None takes the data's.
        per_class: test images of each class, the first in row order; fewer where the rarest class
            has fewer.
        seed: of every draw.
        batch_size, precision, compile: see `Engine`. Every figure is judged in fp32 whatever the
            precision that drives the attacks.
        sweep: whether accuracy is measured over eps too, by attacks that need gradients; a model
            that gives none has no sweep.
        min_robust_accuracy: the gate, in [0, 1]; the report says whether it is met.
        defenses: what was measured of defenses of this model on these data: the `defense.json` of
            `deitsec certify`, `detect`, `substitute`, `transfer` and `poison`, for a section of the
            report.
        origin: where the model came from.
        progress: called with (stage, rows done, rows in all).

    Returns:
        The report; `.save(folder)` writes it.

    Raises:
        OSError: a defense's file that cannot be read.
        ValueError: an attack, eps, count or gate out of range, model and data that do not fit, or a
            defense that was measured on others.
    """
    started = time.perf_counter()
    origin = origin or Origin()
    check_request(model, data, per_class, min_robust_accuracy)
    defended = gather(defenses, model, data)
    sweep = sweep and access_of(model) == "gradient"
    suite = default_suite(data, attacks=attacks, eps=eps, sweep=sweep)
    _check_suite(suite, model, min_robust_accuracy)
    engine = Engine(model, batch_size=batch_size, seed=seed, precision=precision, compile=compile)
    run = _Run(engine, data, choose_rows(data, per_class), progress)
    clean = run.clean()
    galleries: list[Gallery] = []
    found: list[tuple[Attack, Outcome]] = []
    for attack in suite.attacks:
        galleries.append(Gallery())
        found.append((attack, run.attack(attack, galleries[-1])))
    document = _document(run, suite, clean, found, origin)
    defended = [*training_defense(model, data, document), *defended]
    document["defenses"] = [defense.document() for defense in defended]
    document["gate"] = _gate(document, min_robust_accuracy)
    document["verdict"] = judge(
        **{key: document[key] for key in ("clean", "attacks", "worst_case", "data")},
        checks=document["checks"],
        gate=document["gate"],
    )
    examples = with_looks(model, _in_turn(galleries))
    document["seconds"] = time.perf_counter() - started
    return Report(document=document, examples=examples)


def _in_turn(galleries: list[Gallery]) -> list[Example]:
    """One picture a class, the attacks taking turns."""
    shown = [gallery.examples() for gallery in galleries]
    turns = [shown[i % len(shown)] for i in range(max(map(len, shown)))]
    return [pictures[i] for i, pictures in enumerate(turns) if i < len(pictures)]


def check_request(
    model: Classifier, data: DataSource, per_class: int, min_robust_accuracy: float | None
) -> None:
    """Raise a ValueError for what cannot be measured, before any work is done."""
    if model.num_classes != data.num_classes:
        raise ValueError(
            f"model {model.name} has {model.num_classes} classes, data {data.uri} has "
            f"{data.num_classes}; they must be the same"
        )
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    check_gate(min_robust_accuracy)


def _check_suite(suite: Suite, model: Classifier, min_robust_accuracy: float | None) -> None:
    """Raise a ValueError for attacks that the model cannot be asked for, or the gate not judge."""
    for attack in suite.attacks:
        check_aim(attack, None)
        check_access(attack, model, None)
    if min_robust_accuracy is not None and not any(map(pieces.is_limited, suite.attacks)):
        names = ", ".join(attack.name for attack in suite.attacks)
        raise ValueError(
            f"the gate needs an attack with a limit, and {names} may change an image as far as it "
            "takes: set its eps, or add an attack such as pgd"
        )


def check_gate(min_robust_accuracy: float | None) -> None:
    """Raise a ValueError for a gate that is no share."""
    if min_robust_accuracy is not None and not 0 <= min_robust_accuracy <= 1:
        raise ValueError(f"min_robust_accuracy must be in [0, 1], got {min_robust_accuracy}")


def choose_rows(data: DataSource, per_class: int) -> Tensor:
    """Balanced rows of the test split, as many a class as the rarest class allows."""
    counts = torch.bincount(data.test.labels, minlength=data.num_classes)
    return balanced_rows(data.test.labels, min(per_class, int(counts.min())), data.num_classes)


class _Run:
    """One verification: engine, data, rows and where progress goes."""

    def __init__(
        self, engine: Engine, data: DataSource, rows: Tensor, progress: Progress | None
    ) -> None:
        self.engine = engine
        self.data = data
        self.rows = rows
        self._progress = progress

    def clean(self) -> Predictions:
        """Classify the clean rows."""
        return predict(self.engine, self.data, self.rows, self.ticker("clean", len(self.rows)))

    def attack(self, attack: Attack, gallery: Gallery) -> Outcome:
        """Attack every row."""
        tick = self.ticker(format_spec(attack), len(self.rows))
        return measure(self.engine, attack, self.data, self.rows, tick, gallery=gallery)

    def ticker(self, stage: str, total: int) -> Callable[[int], None]:
        """What to tell how many more rows of a stage are done."""
        done = 0

        def tick(rows: int) -> None:
            nonlocal done
            done += rows
            if self._progress is not None:
                self._progress(stage, done, total)

        return tick


def _document(
    run: _Run,
    suite: Suite,
    clean: Predictions,
    found: list[tuple[Attack, Outcome]],
    origin: Origin,
) -> Piece:
    model, data = run.engine.model, run.data
    assert isinstance(model, Classifier)
    num_classes = data.num_classes
    measured = [
        pieces.attack_piece(
            attack,
            outcome,
            num_classes,
            attack_command(origin.subject_command, format_spec(attack)),
        )
        for attack, outcome in found
    ]
    engine = pieces.engine_piece(run.engine)  # before the sweeps, whose batches are smaller
    sweeps = _sweeps(run, suite, clean)
    probes = probe(run.engine, data, _few_rows(run), found, run.ticker)
    clean_part = pieces.clean_piece(clean, num_classes)
    worst = pieces.worst_predictions(run.rows, found, clean)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": origin.command,
        "seed": run.engine.seed,
        "environment": environment(run.engine.device),
        "engine": engine,
        "model": pieces.model_piece(model, origin.kind, origin.training),
        "data": pieces.data_piece(data, run.rows),
        "clean": clean_part,
        "attacks": measured,
        "worst_case": pieces.worst_case(run.rows, found, clean),
        "sweeps": sweeps,
        "per_class": per_class_vulnerability(
            clean.labels, clean.predicted, worst, data.class_names
        ),
        "probes": probes,
        "checks": sanity_checks(clean=clean_part, attacks=measured, sweeps=sweeps, probes=probes),
    }


def _few_rows(run: _Run) -> Tensor:
    """The first rows of each class, for what is measured beside the attacks."""
    return choose_rows(run.data, min(_SWEEP_PER_CLASS, len(run.rows) // run.data.num_classes))


def _sweeps(run: _Run, suite: Suite, clean: Predictions) -> list[Piece]:
    """Robust accuracy over eps, on the first rows of each class."""
    if not suite.sweep_eps:
        return []
    rows = _few_rows(run)
    inside = torch.isin(run.rows, rows)
    start = Predictions(
        labels=clean.labels[inside],
        predicted=clean.predicted[inside],
        confidence=clean.confidence[inside],
    )
    total = len(suite.sweep) * len(suite.sweep_eps) * len(rows)
    tick = run.ticker("eps sweep", total)
    sweeps: list[Piece] = []
    for spec in suite.sweep:
        points = [pieces.clean_point(start)]
        for radius in suite.sweep_eps:
            outcome = measure(run.engine, parse_spec(spec, eps=radius), run.data, rows, tick)
            points.append(pieces.sweep_point(radius, outcome))
        sweeps.append({"attack": spec.partition(":")[0], "rows": len(rows), "points": points})
    return sweeps


def _gate(document: Piece, least: float | None) -> Piece | None:
    if least is None:
        return None
    reached = document["worst_case"]["robust_accuracy"]
    return {
        "min_robust_accuracy": least,
        "robust_accuracy": reached,
        "passed": reached >= least,
    }

"""Turns what was measured into the pieces of the report's document."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import Attack, format_spec
from deitsec.data import DataSource
from deitsec.engine import Engine
from deitsec.metrics import classification_metrics, distance_summary
from deitsec.models import Classifier, model_sha256
from deitsec.verification.measure import Outcome, Predictions

_NORMS = ("linf", "l2", "l1", "l0")
Piece = dict[str, Any]


def clean_piece(found: Predictions, num_classes: int) -> Piece:
    """The `clean` part."""
    return asdict(
        classification_metrics(found.predicted, found.labels, num_classes, found.confidence)
    )


def attack_piece(attack: Attack, found: Outcome, num_classes: int, command: str | None) -> Piece:
    """One entry of `attacks`."""
    metrics = asdict(
        classification_metrics(found.predicted, found.labels, num_classes, found.confidence)
    )
    lost = found.success & ~found.survives
    successes, claims = int(found.success.sum()), int(found.claims.sum())
    return {
        "name": attack.name,
        "spec": format_spec(attack),
        "norm": attack.traits.norm,
        "eps": attack.limit,
        "patches": attack.patches,
        "goal": goal_name(attack),
        **metrics,
        "robust_accuracy": share(robust(found)),
        "success_rate": share(found.success[~found.targeted_before]),
        "distances": {norm: distance_summary(found.norms[:, i]) for i, norm in enumerate(_NORMS)},
        "queries": {
            "forward": int(found.queries[:, 0].sum()),
            "backward": int(found.queries[:, 1].sum()),
        },
        "non_finite": int((~found.finite).sum()),
        "zero_gradients": int((~found.driven).sum()),
        "seconds": found.seconds,
        "images_per_second": len(found.labels) / found.seconds,
        "lost_in_rounding": int(lost.sum()) / successes if successes else None,
        "disagreement": int(found.refuted.sum()) / claims if claims else None,
        "command": command,
    }


def judged(found: list[tuple[Attack, Outcome]]) -> list[tuple[Attack, Outcome]]:
    """The attacks that the worst case is taken over: those with a limit, where there is one.

    Without a limit every classifier falls, and the size of the change is what tells.
    """
    limited = [(attack, outcome) for attack, outcome in found if is_limited(attack)]
    return limited or found


def is_limited(attack: Attack) -> bool:
    """Whether an attack stays within a limit, and leaves an image standing otherwise."""
    return attack.traits.goal == "budget" or attack.radius is not None


def engine_piece(engine: Engine) -> Piece:
    """The `engine` part, as things stood in the engine's last run."""
    return {
        "precision": engine.precision,
        "compile": bool(engine.compile),
        "decisions": engine.explain(),
    }


def goal_name(attack: Attack) -> str:
    """The goal as the report names it."""
    if attack.target is None:
        return "untargeted"
    return "least-likely" if attack.target == "least-likely" else "targeted"


def robust(found: Outcome) -> Tensor:
    """(N,) bool: right on the clean image and on the adversarial one."""
    return (found.clean_predicted == found.labels) & (found.predicted == found.labels)


def share(rows: Tensor) -> float | None:
    """Share of True; None of no rows."""
    return rows.double().mean().item() if len(rows) else None


def sweep_point(eps: float, found: Outcome) -> Piece:
    """One point of a sweep."""
    return {
        "eps": eps,
        "accuracy": share(found.predicted == found.labels),
        "robust_accuracy": share(robust(found)),
        "success_rate": share(found.success[~found.targeted_before]),
    }


def clean_point(found: Predictions) -> Piece:
    """The point of a sweep at eps 0: nothing is attacked."""
    accuracy = share(found.predicted == found.labels)
    return {"eps": 0.0, "accuracy": accuracy, "robust_accuracy": accuracy, "success_rate": 0.0}


def model_piece(model: Classifier, origin: str, training: Piece | None) -> Piece:
    """The `model` part."""
    mean, std = model.normalization
    return {
        "name": model.name,
        "sha256": model_sha256(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_classes": model.num_classes,
        "head": model.head if model.distilled else None,
        "input_size": model.input_size,
        "mean": mean,
        "std": std,
        "origin": origin,
        "training": training,
    }


def data_piece(data: DataSource, rows: Tensor) -> Piece:
    """The `data` part."""
    counts = torch.bincount(data.test.labels[rows], minlength=data.num_classes)
    even = bool((counts == counts[0]).all())
    return {
        "uri": data.uri,
        "name": data.name,
        "sha256": data.sha256,
        "split": "test",
        "rows": len(rows),
        "per_class": int(counts[0]) if even else None,
        "image_shape": data.test.shape,
        "class_names": data.class_names,
    }


def worst_case(rows: Tensor, found: list[tuple[Attack, Outcome]], clean: Predictions) -> Piece:
    """The `worst_case` part: rows that stay right under every attack that is judged."""
    standing = clean.predicted == clean.labels
    for _, outcome in judged(found):
        standing[torch.isin(rows, outcome.rows)] &= robust(outcome)
    return {
        "robust_accuracy": share(standing),
        "attacks": [format_spec(attack) for attack, _ in judged(found)],
    }


def worst_predictions(
    rows: Tensor, found: list[tuple[Attack, Outcome]], clean: Predictions
) -> Tensor:
    """(N,) int64: a wrong prediction where any attack made one, else the right one."""
    worst = clean.predicted.clone()
    for _, outcome in judged(found):
        attacked = torch.isin(rows, outcome.rows)
        fallen = (worst[attacked] == outcome.labels) & (outcome.predicted != outcome.labels)
        worst[attacked] = torch.where(fallen, outcome.predicted, worst[attacked])
    return worst

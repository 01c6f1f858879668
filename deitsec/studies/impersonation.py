"""Denial of service and impersonation: how often each succeeds, and how surely."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import PGD
from deitsec.engine import Engine
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

_MOST_TARGETS = 9  # of an image: a model of a thousand classes is asked about some of them


def measure_impersonation(
    run: StudyRun[Any],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    name: str,
    eps: float,
    steps: int,
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Attack images that a model has right: away from their class, and to other classes.

    The targets are all other classes, or where those are many nine, evenly spread over the classes
    from each label on.

    Args:
        run: of a study.
        model: (B, C, H, W) -> (B, K) logits.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        name: of the model, for those who are told how far it is.
        eps: L-infinity radius of PGD.
        steps: of PGD.
        thresholds: least softmax of the target for an impersonation to count; 0 asks that it wins.

    Returns:
        Plain values: `denial`, the share of the images for which some other class comes to win;
        and of each threshold `impersonation`, the share of all pairs of image and target that
        succeed, and `denial`, the share of the images for which some target does.
    """
    engine = Engine(model, seed=run.seed)
    first = engine.run(
        PGD(eps=eps, steps=steps), images, labels, progress=run.rows(f"denial of service: {name}")
    )
    kept = first.clean_correct.nonzero()[:, 0]
    classes = first.logits.shape[1]
    number = len(target_steps(classes))
    rows = kept.repeat_interleave(number)
    step = target_steps(classes).repeat(len(kept))
    targets = (labels[rows] + step) % classes
    denial = first.success[kept].double().mean().item() if len(kept) else None
    points: list[dict[str, Any]] = []
    for threshold in thresholds if len(kept) else ():
        result = engine.run(
            PGD(eps=eps, steps=steps, confidence=threshold),
            images[rows],
            labels[rows],
            targets,
            sample_ids=rows * classes + targets,
            progress=run.rows(f"impersonation at {threshold:g}: {name}"),
        )
        won = result.success.reshape(len(kept), number)
        points.append(
            {
                "confidence": threshold,
                "impersonation": won.double().mean().item(),
                "denial": won.any(1).double().mean().item(),
            }
        )
    return {
        "name": name,
        "eps": eps,
        "rows": len(labels),
        "right": len(kept),
        "targets": number,
        "denial": denial,
        "points": points,
    }


def target_steps(classes: int) -> Tensor:
    """How far the targets lie from a label, int64: spread, since neighbours may be alike."""
    number = min(classes - 1, _MOST_TARGETS)
    return torch.arange(1, number + 1) * (classes // (number + 1))


def impersonation_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rates of each model, by threshold."""
    rows: list[list[str]] = []
    for one in found:
        where = f"{one['name']}, eps {255 * one['eps']:.0f}/255"
        rows.append([f"{where}, untargeted", share(one["denial"], 1), "-"])
        rows += [
            [
                f"{where}, {_asked(point['confidence'])}",
                share(point["denial"], 1),
                share(point["impersonation"], 1),
            ]
            for point in one["points"]
        ]
    return table(("", "denial of service", "impersonation"), rows)


def _asked(confidence: float) -> str:
    return f"target at {share(confidence, 0)} or more" if confidence else "target wins"

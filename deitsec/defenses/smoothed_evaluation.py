"""A smoothed classifier under attack, by whom does not know of the noise and by whom does."""

from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import Attack, format_spec
from deitsec.data import DataSource, to_float
from deitsec.defenses.smoothed_attack import OBJECTIVES, attack_smoothed
from deitsec.defenses.smoothing import SmoothedClassifier
from deitsec.engine import Engine


def evaluate_smoothed(
    smoothed: SmoothedClassifier,
    data: DataSource,
    rows: Tensor,
    attack: Attack,
    *,
    votes: int = 1000,
    alpha: float = 0.001,
) -> dict[str, Any]:
    """Attack test images, and judge every image by votes that the attack has not seen.

    Args:
        smoothed: the defense.
        data: where the images are.
        rows: (N,) int64 rows of the test split, N >= 1; they are the sample ids too.
        attack: run on the model inside, without noise (`plain`), and on the answer expected under
            noise, by softmax and by logits (`adaptive`; see `attack_smoothed`).
        votes: noisy copies that judge each image.
        alpha: level of the votes.

    Returns:
        Plain values: `spec`, `votes`, and the shares of the rows whose majority is right:
        `accuracy` on the clean images, `plain`, and `adaptive`, where the plain attack
        and both objectives leave it right; a row that was wrong before counts as wrong.

    Raises:
        ValueError: what `Engine.run` and `SmoothedClassifier.predict` raise.
    """
    images, labels = to_float(data.test.images(rows)), data.test.labels[rows]
    right = smoothed.predict(images, votes, alpha, sample_ids=rows).leaders == labels
    engine = Engine(smoothed.model, stop="never", seed=smoothed.seed)
    fooling = engine.run(attack, images, labels, sample_ids=rows).adv
    plain = smoothed.predict(fooling, votes, alpha, sample_ids=rows).leaders == labels
    adaptive = [
        attack_smoothed(
            smoothed,
            attack,
            images,
            labels,
            objective=objective,
            n=votes,
            alpha=alpha,
            sample_ids=rows,
        ).right
        for objective in OBJECTIVES
    ]
    return {
        "spec": format_spec(attack),
        "votes": votes,
        "accuracy": _share(right),
        "plain": _share(right & plain),
        # who knows of the noise has the plain attack too
        "adaptive": _share(right & plain & torch.stack(adaptive).all(0)),
    }


def _share(rows: Tensor) -> float:
    return rows.double().mean().item()

"""An attack on a smoothed classifier by somebody who knows it, judged by its votes."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deitsec.attacks import Attack
from deitsec.defenses.smoothing import ABSTAIN, SmoothedClassifier, Votes
from deitsec.engine import AttackResult, Engine

Objective = Literal["softmax", "logits"]
OBJECTIVES: tuple[Objective, ...] = ("softmax", "logits")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothedAttack:
    """What an attack did to the smoothed classifier, by row.

    Attributes:
        result: of the attack on the expected answer, as it drove itself.
        votes: at the adversarial images, with noise that the attack has not seen.
        right: (N,) bool: most votes at the adversarial image are for the label. Where the
            classifier would abstain there, the row counts by the side it leans to.
        broken: (N,) bool: the smoothed classifier returns another class than the label there. A
            majority that may be a toss of coins, where it abstains, is none.
    """

    result: AttackResult
    votes: Votes
    right: Tensor
    broken: Tensor

    @property
    def accuracy(self) -> float:
        """Share of rows whose majority is still the label."""
        return self.right.double().mean().item()


def attack_smoothed(
    smoothed: SmoothedClassifier,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    *,
    objective: Objective = "softmax",
    n: int = 1000,
    alpha: float = 0.001,
    sample_ids: Tensor | None = None,
    **options: Any,
) -> SmoothedAttack:
    """Attack the expected answer under noise, and count the votes at what came out.

    Every row keeps its iterate of highest loss (`stop="never"`): a first success by a few draws is
    one on the border, and the votes are many.

    Args:
        smoothed: the defense.
        attack: any attack that the model's access allows; PGD in L2 is the one that fits the
            certificate.
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) integer classes.
        objective: `softmax` climbs on the mean softmax of the noisy copies (SmoothAdv,
            arXiv:1906.04584), `logits` on their mean logits (EOT, arXiv:1707.07397).
        n: noisy copies that vote on each adversarial image.
        alpha: level of `predict`.
        sample_ids: (N,) int64 identity of each row.
        **options: of `Engine`, and `progress` of `Engine.run`.

    Raises:
        ValueError: an unknown objective, or what `Engine.run` and `predict` raise: an attack that
            needs gradients of a model that gives none, say.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    progress = options.pop("progress", None)
    climbed = smoothed if objective == "softmax" else smoothed.noisy
    settings: dict[str, Any] = {"stop": "never", "seed": smoothed.seed, **options}
    engine = Engine(climbed, **settings)
    result = engine.run(attack, images, labels, sample_ids=sample_ids, progress=progress)
    votes = smoothed.predict(result.adv, n, alpha, sample_ids=sample_ids)
    own = torch.as_tensor(labels).cpu()
    broken = (votes.classes != ABSTAIN) & (votes.classes != own)
    return SmoothedAttack(result=result, votes=votes, right=votes.leaders == own, broken=broken)

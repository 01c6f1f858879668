"""The defenses of the MNIST study, each attacked plainly and by somebody who knows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import APGD, FGSM, PGD, Attack
from deitsec.attacks.reliable import Reliable
from deitsec.data import to_float
from deitsec.defenses.noise import noisy
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.studies.defensive_distillation import Cooled
from deitsec.studies.mnist_adversarial_networks import Networks
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.study import StudyRun
from deitsec.verification.protocol import choose_rows

Piece = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A defense, and what somebody who knows it does.

    Attributes:
        model: what answers, and judges every success.
        known: whose gradients are followed; None the model's own.
        attacks: with which attacks.
        words: the same for readers.
    """

    model: nn.Module
    known: nn.Module | None = None
    attacks: Sequence[Attack]
    words: str


def measure_defenses(networks: Networks, undefended: Classifier) -> list[Piece]:
    """Train the defended networks, and attack all on the same rows and radius.

    Args:
        networks: trains.
        undefended: the convolutional network.
    """
    run, options, eps = networks.run, networks.options, networks.eps
    strong = (Reliable(eps=eps),)
    adversarial, adversarial_history = networks.adversarial()
    distilled, distilled_history = networks.distilled()
    trained, noisy_history = networks.noisy()
    look = partial(noisy, trained, std=options.noise, seed=run.seed)
    averaged = (
        PGD(eps=eps, steps=options.adaptive_steps),
        APGD(eps=eps, steps=options.adaptive_steps),
        APGD(eps=eps, steps=options.adaptive_steps, loss="dlr"),
    )
    cooled = f"reliable, on logits / {options.temperature:g}"
    defended: dict[str, tuple[Defended, Piece]] = {
        "undefended": (Defended(model=undefended, attacks=strong, words="reliable"), {}),
        "adversarial training": (
            Defended(model=adversarial, attacks=strong, words="reliable"),
            adversarial_history,
        ),
        "defensive distillation": (
            Defended(
                model=distilled,
                known=Cooled(distilled, options.temperature),
                attacks=strong,
                words=cooled,
            ),
            distilled_history,
        ),
        "input noise": (
            Defended(
                model=look(),
                known=look(number=options.draws),
                attacks=averaged,
                words=f"PGD, APGD and APGD-DLR, over {options.draws} draws a step",
            ),
            noisy_history,
        ),
    }
    found: list[Piece] = []
    for name, (defense, history) in defended.items():
        make = partial(_attacked, run, name, defense, eps)
        piece = run.part(f"attacked-{name.replace(' ', '-')}", make)
        settings = history.get("settings", {})
        found.append({"name": name, "words": defense.words, "settings": settings, **piece})
    return found


def _attacked(run: StudyRun[Options], name: str, defense: Defended, eps: float) -> Piece:
    """Shares of the rows that are right: clean, under each attack, and under all of them."""
    rows = choose_rows(run.data, run.options.defended_per_class)
    images, labels = to_float(run.data.test.images(rows)), run.data.test.labels[rows]
    model = defense.model.to(run.device)
    draws = any(getattr(part, "stochastic", False) for part in model.modules())

    def left(attack: Attack, known: nn.Module | None) -> tuple[Tensor, Tensor]:
        engine = Engine(
            model,
            surrogate=known,
            seed=run.seed,
            # one look with fresh numbers a row: who may ask again and again wins by luck
            stop="never" if draws else "first_success",
        )
        told = run.rows(f"{attack.name} on {name}")
        result = engine.run(attack, images, labels, sample_ids=rows, progress=told)
        return result.clean_correct, result.clean_correct & (result.logits.argmax(1) == labels)

    clean, fgsm = left(FGSM(eps=eps), None)
    _, pgd = left(PGD(eps=eps, steps=run.options.attack_steps), None)
    adaptive = torch.ones_like(fgsm)
    for attack in defense.attacks:
        adaptive &= left(attack, defense.known)[1]
    return {
        "rows": len(rows),
        "clean": _share(clean),
        "fgsm": _share(fgsm),
        "pgd": _share(pgd),
        "adaptive": _share(adaptive),
        "all": _share(fgsm & pgd & adaptive),
    }


def _share(rows: Tensor) -> float:
    return rows.to(torch.float64).mean().item()

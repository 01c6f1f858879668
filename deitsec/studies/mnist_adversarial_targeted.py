"""An image of each class made into every other, as the MNIST study does it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from deitsec.attacks.fooling import noise
from deitsec.attacks.fooling_lookalike import FoolingLookalike
from deitsec.attacks.squared_error import half_squared_error
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.engine.guard import attack_mode
from deitsec.models import Classifier
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.pictures import packed
from deitsec.studies.study import StudyRun
from deitsec.training import predict
from deitsec.types import Goal, Problem

Piece = dict[str, Any]

LITERAL_RATE = 0.05
"""Step of the plain gradient descent: that of `FoolingLookalike`."""
SURE = 0.9
"""Softmax of the target that the second form asks for."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Every class with every other.

    Attributes:
        rows: (K,) test image of each class.
        sources: (K (K - 1),) int64 classes of the pictures.
        targets: (K (K - 1),) int64 classes that they are to be taken for.
        images: (K (K - 1), C, H, W) the sources.
    """

    rows: Tensor
    sources: Tensor
    targets: Tensor
    images: Tensor


def pairs_of(run: StudyRun[Options], network: Classifier) -> Pairs:
    """The first test image of each class that the network gets right, with every other class."""
    test, classes = run.data.test, run.data.num_classes
    right = predict(network, test).argmax(1) == test.labels
    own = [test.labels == k for k in range(classes)]
    # of a class without a right one, the first
    shown = [right & rows if bool((right & rows).any()) else rows for rows in own]
    rows = torch.tensor([int(rows.int().argmax()) for rows in shown])
    sources = torch.arange(classes).repeat_interleave(classes - 1)
    targets = (sources + torch.arange(1, classes).repeat(classes)) % classes
    images = to_float(test.images(rows[sources])).to(run.device)
    return Pairs(rows=rows, sources=sources, targets=targets, images=images)


def towards(run: StudyRun[Options], network: Classifier, confidence: float = 0.0) -> Piece:
    """Each pair by `FoolingLookalike`.

    Args:
        run: of the study.
        network: that is fooled.
        confidence: softmax of the target from which on an image counts; 0 asks for the answer.
    """
    pairs, weight = pairs_of(run, network), run.options.weight
    attack = FoolingLookalike(
        weight=weight, steps=run.options.crafting_steps, confidence=confidence
    )
    goals = pairs.targets.to(pairs.images.device)
    sources = pairs.sources.to(goals.device)
    engine = Engine(network, seed=run.seed)
    result = engine.run(attack, pairs.images, sources, goals, progress=run.rows("targeted"))
    reached, kept = result.success, _kept(network, result.adv, goals, confidence)
    apart = result.distance("l2").double()
    error = half_squared_error(result.logits.float(), goals).double()
    still = half_squared_error(result.clean_logits.float(), goals).double()
    objective = error + weight * apart.square()
    sure = result.logits.float().softmax(1).gather(1, goals[:, None])[:, 0]
    some = bool(reached.any())
    named = zip(pairs.sources.tolist(), pairs.targets.tolist(), kept.tolist(), strict=True)
    return {
        "rows": len(goals),
        "source_rows": pairs.rows.tolist(),
        "reached": _mean(reached),
        "kept": _mean(kept),
        "pairs": [list(pair) for pair in named],  # source, target, kept
        "distance": _mean(apart[reached]) if some else None,
        "confidence": _mean(sure[reached]) if some else None,
        "objective": _mean(objective[reached]) if some else None,
        "objective_of_source": _mean(still),
        "below_source": _mean(reached & (objective < still)),
        "sources": packed(run.data.test.images(pairs.rows)),
        "images": packed(result.adv),
    }


def surely(run: StudyRun[Options], network: Classifier) -> Piece:
    """The same where the network has to be sure; figures alone."""
    found = towards(run, network, SURE)
    return {key: value for key, value in found.items() if key not in ("sources", "images")}


def literally(run: StudyRun[Options], network: Classifier) -> Piece:
    """Plain gradient descent on the formula, from noise and from the source itself."""
    pairs = pairs_of(run, network)
    return {
        name: {"rows": len(start), **_descend(run, network, pairs, start)}
        for name, start in (("noise", _noise(run, pairs)), ("source", pairs.images))
    }


def _descend(run: StudyRun[Options], network: Classifier, pairs: Pairs, x: Tensor) -> Piece:
    """x - rate * grad of 1/2 ||y - softmax||^2 + lambda ||x - source||^2, in the box."""
    goals = pairs.targets.to(x.device)
    y = one_hot(goals, run.data.num_classes)
    ever = torch.zeros_like(goals, dtype=torch.bool)
    told = run.rows("targeted, plain descent")
    with attack_mode(network), torch.enable_grad():
        for step in range(run.options.crafting_steps):
            x = x.detach().requires_grad_()
            logits = network(x)
            ever |= logits.argmax(1) == goals
            error = 0.5 * (y - logits.softmax(1)).square().sum()
            objective = error + run.options.weight * (x - pairs.images).square().sum()
            (grad,) = torch.autograd.grad(objective, x)
            x = (x - LITERAL_RATE * grad).detach().clamp(0, 1)
            told((step + 1) * len(goals), run.options.crafting_steps * len(goals))
        reached = network(x).argmax(1) == goals
    return {
        "reached": _mean(reached),
        "ever": _mean(ever | reached),
        "distance": _mean((x - pairs.images).flatten(1).norm(dim=1)),
    }


def _kept(network: Classifier, adv: Tensor, goals: Tensor, confidence: float) -> Tensor:
    """(B,) bool: the goal is still reached once the images are rounded to 8 bits."""
    with attack_mode(network), torch.no_grad():
        sure = network((adv * 255).round() / 255).float().softmax(1).max(1)
    return (sure.indices == goals) & (sure.values >= confidence)


def _noise(run: StudyRun[Options], pairs: Pairs) -> Tensor:
    """Noise around mid-grey, as `Fooling` starts from, by the number of the pair."""
    goals = pairs.targets.to(pairs.images.device)
    problem = Problem(
        x=pairs.images,
        y=goals,
        labels=goals,
        goal=Goal(y=goals, targeted=True),
        sample_ids=torch.arange(len(goals), device=goals.device),
        seed=run.seed,
        targeted=True,
    )
    return noise(problem, "normal")


def _mean(values: Tensor) -> float:
    return values.to(torch.float64).mean().item()

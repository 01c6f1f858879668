"""Fooling images of chosen classes, without any image to start from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.attacks.fooling import Fooling
from deitsec.engine.engine import Engine, Progress
from deitsec.engine.guard import attack_mode
from deitsec.engine.result import AttackResult
from deitsec.types import Goal, Problem

_TOGETHER = 256  # rows that are asked about at once


def fooling_images(
    model: nn.Module,
    *,
    classes: Sequence[int] | None = None,
    per_class: int = 1,
    image_shape: Sequence[int] = (1, 28, 28),
    attack: Attack | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> AttackResult:
    """Craft images of nothing that a model is sure of (Nguyen et al., arXiv:1412.1897).

    Args:
        model: see `Engine`.
        classes: what the images are to be taken for; None takes every class.
        per_class: images of each class, from other noise each.
        image_shape: (C, H, W).
        attack: one that may go anywhere: `Fooling`, which is the default, or an evolution.
        progress: see `Engine.run`.
        **options: those of `Engine`.

    Returns:
        A row an image, the classes in their order. `targets` are the classes; `clean` is what the
        attack started from and `labels` the class, other than the target, that the model finds
        likeliest there, so that `distance` tells how far the attack went.

    Raises:
        ValueError: a class that the model does not have, a shape that is none, an attack that
            needs an image.
    """
    attack = Fooling() if attack is None else attack
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (C, H, W), got {tuple(image_shape)}")
    engine = Engine(model, **options)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    grey = torch.full((1, *image_shape), 0.5, dtype=dtype, device=engine.device)
    number = _logits(model, grey).shape[1]
    chosen = range(number) if classes is None else classes
    for index in chosen:
        if not 0 <= index < number:
            raise ValueError(f"classes must be in 0 to {number - 1}, got {index}")
    if len(chosen) == 0:
        raise ValueError("classes must hold at least one class, got none")
    targets = torch.tensor(list(chosen), device=engine.device).repeat_interleave(per_class)
    nothing = grey.expand(len(targets), -1, -1, -1)
    start = _start(attack, nothing, targets, engine.seed)
    if attack.traits.goal != "anywhere" or torch.equal(start, nothing):
        raise ValueError(f"{attack.name} starts at an image; fooling images come from nothing")
    others = _logits(model, start).scatter(1, targets[:, None], -torch.inf)
    return engine.run(attack, start, others.argmax(1), targets, progress=progress)


def _start(attack: Attack, grey: Tensor, targets: Tensor, seed: int) -> Tensor:
    """(N, C, H, W) what the attack begins with at each row."""
    goal = Goal(y=targets, targeted=True)
    ids = torch.arange(len(targets), device=targets.device)
    problem = Problem(
        x=grey, y=targets, labels=targets, goal=goal, sample_ids=ids, seed=seed, targeted=True
    )
    return attack.init(problem).x


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with attack_mode(model), torch.no_grad():
        return torch.cat([model(part) for part in x.split(_TOGETHER)])

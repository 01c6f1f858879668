"""A generator's attack beside others at the same radius: what falls to each, and how fast."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.perturbation_generator import PerturbationGenerator
from deitsec.attacks.spec import format_spec
from deitsec.engine import Engine
from deitsec.models import Classifier

Told = Callable[[str, int, int], object]


def compare_attacks(
    classifier: Classifier,
    attacks: Sequence[Attack],
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    repeats: int = 5,
    batch_size: int | None = None,
    progress: Told | None = None,
) -> list[dict[str, Any]]:
    """Run attacks on the same images in turn, several times, and say what each came to.

    Success is that of the engine, of the rows that it can be had of. The time of an attack is the
    median over the repeats, in which they take turns, after one run that is not timed; it holds
    all that the engine does, judging included.

    Args:
        classifier: what is attacked.
        attacks: at the same radius.
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        seed: of every draw, the same in each repeat.
        repeats: >= 1.
        batch_size: of the engine; None leaves it to the engine.
        progress: called with (spec, rows done, rows in all) of the run that is not timed.

    Returns:
        For each attack `name`, `spec`, `rows`, `success_rate`, `linf` (the largest distance),
        `images_per_second`, `seconds` (one a repeat).
    """
    engine = Engine(classifier, seed=seed, batch_size=batch_size or "auto")
    found: list[dict[str, Any]] = []
    for attack in attacks:
        spec = format_spec(attack)
        tell = None if progress is None else _named(progress, attack.name)
        result = engine.run(attack, images, labels, progress=tell)
        rate = result.success_rate
        found.append(
            {
                "name": attack.name,
                "spec": spec,
                "rows": len(images),
                "success_rate": None if rate != rate else rate,  # NaN: no row could fall
                "linf": result.distance("linf").max().item(),
                "seconds": [],
            }
        )
    for _ in range(repeats):
        for attack, entry in zip(attacks, found, strict=True):
            entry["seconds"].append(engine.run(attack, images, labels).seconds)
    for entry in found:
        entry["images_per_second"] = len(images) / statistics.median(entry["seconds"])
    return found


def same_aim(attack: Attack, generator: PerturbationGenerator) -> Attack:
    """The attack aimed as the generator is: at its class, or each row at a random one."""
    if generator.target is None:
        return attack
    target = "random" if generator.target == "any" else generator.target
    return dataclasses.replace(attack, target=target)


def generation_rate(
    generator: PerturbationGenerator, images: Tensor, *, batch_size: int = 256, repeats: int = 5
) -> float:
    """Images per second that a generator makes, nobody judging them; the median of the repeats.

    Args:
        generator: it aims at class 0 where it has to be told.
        images: (N, C, H, W) float in [0, 1], where it is to work.
        batch_size: images of a forward pass.
        repeats: timed passes over the images, after one that is not.
    """
    times: list[float] = []
    for _ in range(repeats + 1):
        _wait(images.device)
        started = time.perf_counter()
        for some in images.split(batch_size):
            aims = torch.zeros(len(some), dtype=torch.int64, device=images.device)
            generator.apply(some, aims if generator.target == "any" else None)
        _wait(images.device)
        times.append(time.perf_counter() - started)
    return len(images) / statistics.median(times[1:])


def _named(progress: Told, name: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        progress(name, done, total)

    return tell


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

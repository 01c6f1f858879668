"""What print and photograph take back: destruction rates of each method under each change."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import Attack, format_spec
from deitsec.engine import AttackResult, Engine
from deitsec.metrics import destruction_rate
from deitsec.models.transforms import (
    JPEG,
    Brightness,
    Contrast,
    GaussianBlur,
    GaussianNoise,
    Rotation,
    Transform,
    print_and_photograph,
)
from deitsec.studies.study import StudyRun

PRINT = "print, photograph"
CHANGES: Mapping[str, Transform] = {
    "brightness": Brightness(limit=0.1),
    "contrast": Contrast(limit=0.2),
    "noise": GaussianNoise(std=0.04),
    "blur": GaussianBlur(sigma=1.0),
    "JPEG": JPEG(quality=(60, 95)),
    "1 degree": Rotation(degrees=1),
    "5 degrees": Rotation(degrees=5),
    PRINT: print_and_photograph(),
}
STRENGTHS = (0.25, 0.5)
"""Of the print and photograph, beside the whole of it."""


def measure_destruction(
    run: StudyRun[Any],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Mapping[str, Attack],
    *,
    eps: float,
    draws: int,
) -> dict[str, Any]:
    """Attack, and look again through each change.

    Args:
        run: of a study.
        model: (B, C, H, W) -> (B, K) logits.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        attacks: by the names of `PUBLISHED`, at eps.
        eps: L-infinity radius, which the page shows.
        draws: of each change, for each image.
    """
    methods: list[dict[str, Any]] = []
    results: dict[str, AttackResult] = {}
    for name, attack in attacks.items():
        told = run.rows(f"{name}, to be photographed")
        engine = Engine(model, seed=run.seed, stop="never", quantize=True)
        result = results[name] = engine.run(attack, images, labels, progress=told)
        # the first image that fools, which is no surer than need be
        first = Engine(model, seed=run.seed, quantize=True).run(attack, images, labels)
        fooled = _fooled(result)
        rate = partial(_rate, model, draws=draws, seed=run.seed)
        surest = result.logits.double().softmax(1).amax(1)
        surer = surest >= (surest[fooled].median() if bool(fooled.any()) else 0.0)
        methods.append(
            {
                "name": name,
                "spec": format_spec(attack),
                "fooled": int(fooled.sum()),
                "confidence": surest[fooled].mean().item() if bool(fooled.any()) else None,
                "rates": {change: rate(result, CHANGES[change]) for change in CHANGES},
                "strengths": {
                    f"{strength:g}": rate(result, print_and_photograph(strength))
                    for strength in STRENGTHS
                },
                "surer": rate(result, CHANGES[PRINT], surer),
                "less_sure": rate(result, CHANGES[PRINT], ~surer),
                "first_success": {
                    "fooled": int(_fooled(first).sum()),
                    "confidence": _confidence(first),
                    "rate": rate(first, CHANGES[PRINT]),
                },
            }
        )
    common = torch.stack([_fooled(result) for result in results.values()]).all(0)
    for method, result in zip(methods, results.values(), strict=True):
        method["common"] = _rate(model, result, CHANGES[PRINT], common, draws=draws, seed=run.seed)
    return {
        "eps": eps,
        "rows": len(labels),
        "draws": draws,
        "common": int(common.sum()),
        "clean": _seen_right(model, results, draws=draws, seed=run.seed),
        "methods": methods,
    }


def _fooled(result: AttackResult) -> Tensor:
    return result.clean_correct & (result.logits.argmax(1) != result.labels)


def _confidence(result: AttackResult) -> float | None:
    sure = result.logits.double().softmax(1).amax(1)[_fooled(result)]
    return sure.mean().item() if len(sure) else None


def _rate(
    model: nn.Module,
    result: AttackResult,
    change: Transform,
    rows: Tensor | None = None,
    *,
    draws: int,
    seed: int,
) -> float | None:
    """The destruction rate of some rows, None where none was fooled."""
    if rows is not None:
        result = replace(result, clean_correct=result.clean_correct & rows)
    found = destruction_rate(model, result, change, num_samples=draws, seed=seed)
    return None if found != found else found


def _seen_right(
    model: nn.Module, results: Mapping[str, AttackResult], *, draws: int, seed: int
) -> float | None:
    """Share of the clean images that are right, and still are once printed and photographed."""
    result = next(iter(results.values()))
    # the opposite of what the model says of a clean image that it has right is wrong everywhere
    clean = replace(result, adv=result.clean, logits=-result.clean_logits)
    return _rate(model, clean, CHANGES[PRINT], draws=draws, seed=seed)

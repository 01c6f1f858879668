"""What print and photograph take back: destruction rates of each method under each change."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
    Transform,
    print_and_photograph,
)
from deitsec.report.wording import grey_levels
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

PRINT = "print, photograph"
CHANGES: Mapping[str, Transform] = {
    "brightness": Brightness(limit=0.1),
    "contrast": Contrast(limit=0.2),
    "noise": GaussianNoise(std=0.04),
    "blur": GaussianBlur(sigma=1.0),
    "JPEG": JPEG(quality=(60, 95)),
    PRINT: print_and_photograph(),
}
# Kurakin et al., arXiv:1607.02533, table 3, average case, top 1: ImageNet, Inception v3, prints
# photographed by a phone; by eps in levels of 255
PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "fast": {16: 0.125, 8: 0.333},
    "basic iterative": {16: 0.404, 8: 0.521},
    "least likely": {16: 0.722, 8: 0.863},
}


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
    engine = Engine(model, seed=run.seed, stop="never", quantize=True)
    methods: list[dict[str, Any]] = []
    for name, attack in attacks.items():
        told = run.rows(f"{name}, to be photographed")
        result = engine.run(attack, images, labels, progress=told)
        fooled = result.clean_correct & (result.logits.argmax(1) != result.labels)

        def rate(change: str, rows: Tensor, result: AttackResult = result) -> float | None:
            some = replace(result, clean_correct=result.clean_correct & rows)
            found = destruction_rate(model, some, CHANGES[change], num_samples=draws, seed=run.seed)
            return None if found != found else found

        surest = result.logits.double().softmax(1).amax(1)
        surer = surest >= (surest[fooled].median() if bool(fooled.any()) else 0.0)
        methods.append(
            {
                "name": name,
                "spec": format_spec(attack),
                "fooled": int(fooled.sum()),
                "confidence": surest[fooled].mean().item() if bool(fooled.any()) else None,
                "rates": {change: rate(change, fooled) for change in CHANGES},
                "surer": rate(PRINT, surer),
                "less_sure": rate(PRINT, ~surer),
            }
        )
    return {"eps": eps, "rows": len(labels), "draws": draws, "methods": methods}


def destruction_table(found: Mapping[str, Any]) -> str:
    """Rates by method and change, beside those of real prints at this eps, and by confidence."""
    level = round(255 * found["eps"])
    rows: list[list[str]] = []
    for method in found["methods"]:
        published = PUBLISHED.get(method["name"], {}).get(level)
        rates = map(_shown, method["rates"].values())
        rows.append([method["name"], str(method["fooled"]), *rates, _shown(published)])
    sure = [
        [method["name"], *(_shown(method[key]) for key in ("confidence", "surer", "less_sure"))]
        for method in found["methods"]
    ]
    head = ("method", "images fooled", *CHANGES, "real prints, published")
    halves = ("method", "confidence when wrong", "of the surer half", "of the other half")
    return "\n".join(
        [
            f"At most {grey_levels(found['eps'])}, {found['rows']} images, {found['draws']} draws "
            "of each change:\n",
            table(head, rows),
            "What print and photograph take back, by how sure the model was of its wrong answer:\n",
            table(halves, sure),
        ]
    )


def _shown(rate: float | None) -> str:
    return "-" if rate is None else share(rate, 1)

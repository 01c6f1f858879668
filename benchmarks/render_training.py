"""The section of adversarial training in docs/benchmarks.md."""

from typing import Any

from benchmarks.render_attacks import facts
from benchmarks.tables import seconds, table
from benchmarks.training_sides import CLEAN, OURS, PLAIN, TUNED

TRAINING = """## Adversarial training

One step of training against PGD-7, the update of the weights included, beside the same step in
plain PyTorch and a step on clean images; `python -m benchmarks training`. *eager tuned* freezes the
weights while it attacks and works in place; *eager as written* calls `backward()` through all of
them. *of passes* is ours over the clean step, divided by (2K + 3) / 3: what K gradients of images
cost where each pass costs the same.
"""


def training(results: list[dict[str, Any]]) -> str:
    """The section, with a part for each device; nothing where nothing was measured."""
    if not results:
        return ""
    parts = [TRAINING]
    for result in results:
        parts += [f"### Adversarial training, {result['device']}\n", facts(result)]
        rows = result["rows"]
        sides = (CLEAN, OURS, TUNED, PLAIN)
        body = [
            [f"{row['case']}, batch {row['batch']}"]
            + [seconds(row["seconds"][side]) for side in sides]
            + [
                f"{row['ratio'] / row['model_ratio']:.2f}x",
                f"{row['seconds'][TUNED] / row['seconds'][OURS]:.2f}x",
            ]
            for row in rows
        ]
        parts.append(table(["network", *sides, "of passes", "over tuned"], body))
        targets = [
            [
                f"{row['case']}: {target['what']}",
                f"{target['limit']:.2f}",
                f"{target['measured']:.2f}",
                "yes" if target["met"] else "**no**",
            ]
            for row in rows
            for target in row["targets"]
        ]
        parts.append(table(["target", "limit", "measured", "met"], targets))
    return "\n".join(parts)

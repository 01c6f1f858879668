"""The section of precision in docs/benchmarks.md."""

from typing import Any

from benchmarks.render_attacks import NOT_MEASURED, facts
from benchmarks.tables import table

PRECISION = """## Precision

Whether an attack driven in lower precision is as strong: every attack, stopped at each row's first
success, which counts only where an fp32 forward pass confirms it. *Refuted* is the share of the
successes found in lower precision that fp32 did not confirm; *against fp32* is the difference of
the success rates in points, promised to be within 0.3. `python -m benchmarks precision`.
"""


def precision(results: list[dict[str, Any]]) -> str:
    """The section, with a part for each device."""
    parts = [PRECISION]
    for result in results:
        parts += [f"### Precision, {result['device']}\n", facts(result), strength(result["rows"])]
    return "\n".join(parts if results else [*parts, NOT_MEASURED])


def strength(rows: list[dict[str, Any]]) -> str:
    """Every attack, network and precision of a device."""
    body: list[list[str]] = []
    for row in rows:
        for name, found in row["precisions"].items():
            refuted, against = found["disagreement"], found.get("against_fp32")
            body.append(
                [
                    f"`{row['spec']}`, {row['network']}",
                    name,
                    f"{found['success']:.1%}",
                    f"{found['robust_accuracy']:.1%}",
                    "" if refuted is None else f"{refuted:.2%}",
                    "" if against is None else f"{against['points']:+.1f}",
                    "" if against is None else "yes" if against["met"] else "**no**",
                ]
            )
    header = ["attack, network", "precision", "success", "robust", "refuted"]
    text = table([*header, "against fp32", "within 0.3"], body)
    text += f"\n{', '.join(sorted({str(row['rows']) for row in rows}))} images each.\n"
    reasons = {name: why for row in rows for name, why in row["missing"].items()}
    if reasons:
        text += (
            "\nNot measured: " + "; ".join(f"*{n}* ({why})" for n, why in reasons.items()) + ".\n"
        )
    return text

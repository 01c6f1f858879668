"""The section of the heavy attacks in docs/benchmarks.md."""

from itertools import chain
from typing import Any

from benchmarks.engine_targets import shown
from benchmarks.render_attacks import NOT_MEASURED, facts, failed_gate
from benchmarks.strong_targets import (
    FLOOR,
    OURS,
    contest_targets,
    reliable_targets,
    saliency_targets,
)
from benchmarks.tables import seconds, table

Row = dict[str, Any]

STRONG = """## Heavy attacks

JSMA, C&W and AutoAttack from start to end beside other libraries, same network, images and options;
`python -m benchmarks strong`. The images of each side are judged by the model in fp32: where fewer
of ours fall (by a point), or the median distance is 2% above the best of the others, no speed is
reported. *model floor* is as many forwards and backwards as ours took, and nothing else. *Distance*
is the median over the fallen rows, L0 for JSMA and L2 for C&W. *pyautoattack* packages the
code of AutoAttack's authors; *torchattacks* takes 10 steps of APGD where the protocol takes 100.
"""
RELIABLE = """`reliable` is the cheap evaluation beside the whole of `autoattack`, the standard
protocol; it is not AutoAttack. Passes are counted a row.
The radii are those that about half of the rows withstand.
"""


def strong(results: list[dict[str, Any]]) -> str:
    """The section, with a part for each device."""
    parts = [STRONG]
    for result in results:
        kinds: dict[str, list[Row]] = {}
        for row in result["rows"]:
            kinds.setdefault(row["kind"], []).append(row)
        contests, cheap = kinds.get("strong", []), kinds.get("reliable", [])
        saliency = kinds.get("saliency memory", []) + kinds.get("saliency pair", [])
        parts += [f"### Heavy attacks, {result['device']}\n", facts(result)]
        measured = [row for row in contests if row["gate"]["passed"]]
        found = contest_targets(measured), reliable_targets(cheap), saliency_targets(saliency)
        parts.append(shown(chain(*found)))
        parts += [contest(row) for row in contests]
        if cheap:
            parts += [RELIABLE, evaluations(cheap)]
    return "\n".join(parts if results else [*parts, NOT_MEASURED])


def contest(row: Row) -> str:
    """One attack on one network."""
    eps = "" if row["eps"] is None else f", eps {row['eps']:g}"
    about = (
        f"{row['weights'].capitalize()}; {row['rows']} images in batches of {row['batch']}{eps}."
    )
    if "rounds" in row:
        about += f" {row['rounds']} {'round' if row['rounds'] == 1 else 'rounds'}."
    parts = [f"#### {row['case']}\n", about + "\n"]
    if not row["gate"]["passed"]:
        parts.append(failed_gate(row))
    body: list[list[str]] = []
    ours = row["sides"][OURS].get("seconds")
    for name, side in row["sides"].items():
        time = side.get("seconds")
        body.append(
            [
                name,
                f"{side['success']:.1%}" if "success" in side else "",
                f"{side['median_distance']:.4g}" if "median_distance" in side else "",
                seconds(time) if time else "",
                f"{time / ours:.2f}x" if time and ours else "",
            ]
        )
    parts.append(table(["side", "success", "distance", "time", "of ours"], body))
    if FLOOR in row["sides"]:
        side = row["sides"][OURS]
        passes = f"{side['forwards']:,} forwards and {side['backwards']:,} backwards"
        parts.append(f"Ours took {passes} of an image.\n")
    if row["failed"]:
        reasons = "; ".join(f"*{name}* ({why})" for name, why in row["failed"].items())
        parts.append(f"Not measured: {reasons}.\n")
    return "\n".join(parts)


def evaluations(rows: list[Row]) -> str:
    """The cheap evaluation beside the whole protocol, network by network."""
    body: list[list[str]] = []
    for row in rows:
        for name in ("autoattack", "reliable"):
            side = row["sides"][name]
            body.append(
                [
                    f"`{name}`, {row['case']}, eps {row['eps']:g}",
                    f"{side['robust_accuracy']:.2%}",
                    f"{side['forwards'] / row['rows']:,.0f}",
                    f"{side['backwards'] / row['rows']:,.0f}",
                    seconds(side["seconds"]),
                ]
            )
    text = table(["attack, network", "robust", "forwards", "backwards", "time"], body)
    return text + f"\n{', '.join(sorted({str(row['rows']) for row in rows}))} images each.\n"

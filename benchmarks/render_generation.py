"""The section of adversarial datasets in docs/benchmarks.md."""

from typing import Any

from benchmarks.generation_sides import ATTACK, GENERATE
from benchmarks.ray_generation import LOCAL, RAY
from benchmarks.render_attacks import facts
from benchmarks.tables import per_second, table

GENERATION = """## Adversarial datasets

`deitsec generate` from the source to synced shards and the manifest, beside the attack alone: the
very engine, deterministic and rounding to 8 bits, on float images that lie ready, its results
thrown away. Ray's workers have the cores of the local runner between them; both rates count from
the shard on with which every worker is at work, which is what a long run comes to, and the whole
call holds Ray's start. `python -m benchmarks generation`. *predicted* was written down before
measuring.
"""

RUNNERS = ["case", "images", f"{LOCAL}, images/s", RAY, "whole call, local", "Ray", "same bytes"]


def generation(results: list[dict[str, Any]]) -> str:
    """The section, with a part for each device; nothing where nothing was measured."""
    if not results:
        return ""
    parts = [GENERATION]
    for result in results:
        parts += [f"### Adversarial datasets, {result['device']}\n", facts(result)]
        rows = [row for row in result["rows"] if row["kind"] == "generation"]
        body = [
            [
                row["case"],
                f"{row['dataset_rows']:,} in shards of {row['shard_rows']:,}",
                *(per_second(row["images_per_second"][side]) for side in (ATTACK, GENERATE)),
                f"{row['seconds'][ATTACK] / row['seconds'][GENERATE]:.1%}",
            ]
            for row in rows
        ]
        parts.append(table(["case", "images", f"{ATTACK}, images/s", GENERATE, "share"], body))
        runners = [
            [
                row["case"],
                f"{row['dataset_rows']:,} in shards of {row['shard_rows']:,}",
                *(per_second(row["images_per_second"][side]) for side in (LOCAL, RAY)),
                *(f"{row['seconds'][side]:.1f} s" for side in (LOCAL, RAY)),
                "yes" if row["same_bytes"] else "**no**",
            ]
            for row in result["rows"]
            if row["kind"] == "generation runners"
        ]
        if runners:
            parts.append(table(RUNNERS, runners))
        targets = [
            [
                f"{row['case']}: {target['what']}",
                f"{target['sign']} {target['limit']:g}",
                f"{target['predicted']:g}",
                f"{target['measured']:.3g}",
                "yes" if target["met"] else "**no**",
            ]
            for row in result["rows"]
            for target in row["targets"]
        ]
        parts.append(table(["target", "promised", "predicted", "measured", "met"], targets))
    return "\n".join(parts)

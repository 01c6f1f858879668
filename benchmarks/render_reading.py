"""The section of reading adversarial datasets back in docs/benchmarks.md."""

from typing import Any

from benchmarks.render_attacks import facts
from benchmarks.tables import per_second, table

READING = """## Reading adversarial datasets

An epoch in batches of 256 by PyTorch's DataLoader without workers, images a second; the others read
exports of the same images. `python -m benchmarks reading --threads 1`.
"""


def reading(results: list[dict[str, Any]]) -> str:
    """The section, with a part for each device; nothing where nothing was measured."""
    if not results:
        return ""
    parts = [READING]
    for result in results:
        parts += [f"### Reading, {result['device']}\n", facts(result)]
        sides = list(dict.fromkeys(s for row in result["rows"] for s in row["images_per_second"]))
        body = [
            [
                f"{row['case']} {row['dtype']}",
                f"{row['rows']:,} in shards of {row['shard_rows']:,}",
                *(
                    per_second(row["images_per_second"][side])
                    if side in row["images_per_second"]
                    else ""
                    for side in sides
                ),
            ]
            for row in result["rows"]
        ]
        parts.append(table(["case", "images", *sides], body))
        targets = [
            [
                f"{row['case']} {row['dtype']}, {target['what']}",
                f">= {target['limit']:,}",
                per_second(target["measured"]),
                "yes" if target["met"] else "**no**",
            ]
            for row in result["rows"]
            for target in row["targets"]
        ]
        parts.append(table(["target", "promised", "measured", "met"], targets))
    return "\n".join(parts)

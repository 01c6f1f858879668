"""Makes docs/benchmarks.md and its plots from the results: `python -m benchmarks.render`."""

import json
from pathlib import Path
from typing import Any

from benchmarks import (
    render_attacks,
    render_generation,
    render_precision,
    render_reading,
    render_strong,
    render_training,
    verification,
)
from benchmarks.tables import seconds, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
OURS = ("cpp", "triton", "cuda")
SIDES = ("written", "eager", "compile", *OURS)

HEAD = """# Benchmarks

Made from `benchmarks/results/` by `python -m benchmarks.render`; do not edit.

All sides of a row were timed in one run, turn by turn; a time is the median of the rounds, and a
block during which other processes held a core is timed again. Before a row is timed, every backend
is held to fp64: at most twice the error of plain PyTorch, or there is no number.

- *written*: the formula as one writes it, a new tensor for each operation.
- *eager*: the plain PyTorch with the fewest passes over memory for the same contract
  (`benchmarks/eager.py`); *compile*: torch.compile of that.
  Of `fab_projection` and `fab_step` it is the form with a sort, which is what they are promised
  against; Newton's iteration in plain PyTorch takes about a quarter of its time.
- *bytes*: the ratio eager / fused that the bytes alone predict, written down before measuring. It
  assumes that nothing stays in a cache; where a tensor fits, eager's later passes are cheaper.
- *of copy*: the bytes that a perfect kernel moves each second, over what a plain `copy_` of 256 MiB
  moved in the same run; above 100% part of the tensors was in a cache, or was written in place: a
  copy also reads each line of what it overwrites, and the bytes of a copy do not count that.

malloc keeps freed memory, for all sides alike (`MALLOC_*` in the result file): with glibc's
defaults, eager PyTorch would pay page faults for each temporary and look slower than it is.
"""


def best_side(row: dict[str, Any]) -> str:
    """The fastest of our own backends."""
    ours = {side: time for side, time in row["seconds"].items() if side in OURS}
    return min(ours, key=lambda side: ours[side])


def times_table(rows: list[dict[str, Any]]) -> str:
    """Every side's time, and what the fastest of ours gains."""
    sides = [side for side in SIDES if any(side in row["seconds"] for row in rows)]
    body: list[list[str]] = []
    for row in rows:
        times, best = row["seconds"], best_side(row)
        shape = " x ".join(map(str, row["shape"]))
        body.append(
            [f"`{row['op']}` {shape} {row['dtype']}"]
            + [seconds(times[side]) if side in times else "" for side in sides]
            + [
                f"**{times['eager'] / times[best]:.1f}x**",
                f"{row['predicted_ratio']:.1f}x",
                f"{row['bandwidth'][best] / 1e9:.1f}",
                f"{row['fraction_of_copy'][best]:.0%}",
            ]
        )
    return table(["op", *sides, "over eager", "bytes", "GB/s", "of copy"], body)


def targets_table(rows: list[dict[str, Any]]) -> str:
    """What was promised, what was measured."""
    body = [
        [
            f"`{row['case']}`: {target['faster']} over {target['slower']}",
            f"{target['ratio']}x",
            f"{target['measured']:.2f}x",
            "yes" if target["met"] else "**no**",
        ]
        for row in rows
        for target in row["targets"]
    ]
    return table(["target", "promised", "measured", "met"], body)


def shortfalls(rows: list[dict[str, Any]]) -> str:
    """What the bytes allow where a promise over eager PyTorch was not kept."""
    lines: list[str] = []
    for row in rows:
        for target in row["targets"]:
            if target["met"] or target["slower"] != "eager" or "written" not in row["seconds"]:
                continue
            over_written = row["seconds"]["written"] / row["seconds"][target["faster"]]
            lines.append(
                f"`{row['case']}` falls short: against eager PyTorch that works in place in memory "
                f"lent to it, the bytes allow {row['predicted_ratio']:.2f}x. Over the formula as "
                f"written it is {over_written:.1f}x.\n"
            )
    return "\n".join(lines)


def slower(rows: list[dict[str, Any]]) -> str:
    """The rows above 1,000 elements where PyTorch won, in words."""
    lost = [
        f"`{row['case']}` ({row['seconds']['eager'] / row['seconds'][best_side(row)]:.2f}x)"
        for row in rows
        if row["seconds"]["eager"] < row["seconds"][best_side(row)]
    ]
    if not lost:
        return "Slower than eager PyTorch at any size measured: nowhere.\n"
    return f"Slower than eager PyTorch: {', '.join(lost)}.\n"


def section(result: dict[str, Any]) -> str:
    """One device's part of the page."""
    rows = result["rows"]
    headline = [row for row in rows if row["kind"] == "headline"]
    sweep = [row for row in rows if row["kind"] == "sweep"]
    copy = rows[0]["copy_bandwidth"] / 1e9
    facts = (
        f"PyTorch {result['torch']}, Python {result['python']}, commit {result['commit']}, "
        f"{result['date']}, {result['rounds']} rounds, copy {copy:.1f} GB/s."
    )
    parts = [f"## {result['device']}\n", facts + "\n"]
    if any(row["targets"] for row in rows):
        parts += ["### Targets\n", targets_table(rows), shortfalls(rows)]
    parts += ["### At the shapes of the targets\n", times_table(headline)]
    parts += ["### From 1,000 to 10 million elements\n", slower(rows), times_table(sweep)]
    return "\n".join(parts)


def load(results: Path, group: str) -> list[dict[str, Any]]:
    """A group's results, one a device; those of a quick run are none."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob(f"*/{group}.json"))]
    return [result for result in found if not result.get("quick") and result["rows"]]


def page(results: Path, images: Path) -> str:
    """The whole page; plots go to the folder `images`."""
    ops = load(results, "ops")
    parts = [HEAD, *(section(result) for result in ops)]
    for path in sorted(results.glob("*/verify.json")):
        parts.append(verification.section(json.loads(path.read_text())))
    if not any(result["cuda"] for result in ops):
        parts.append(
            "## GPU\n\nNot measured: no result file of a CUDA device is there. The CUDA and Triton "
            "kernels are compiled for sm_80 and sm_90 in the tests, the Triton ones also run "
            "interpreted; run `python -m benchmarks` on a GPU to add its section.\n"
        )
    parts.append(render_attacks.attacks(load(results, "attacks"), images))
    parts.append(render_attacks.compaction(load(results, "compaction"), images))
    parts.append(render_precision.precision(load(results, "precision")))
    parts.append(render_strong.strong(load(results, "strong")))
    parts.append(render_training.training(load(results, "training")))
    parts.append(render_generation.generation(load(results, "generation")))
    parts.append(render_reading.reading(load(results, "reading")))
    return "\n".join(parts)


def main() -> None:
    """Write the page and its plots."""
    PAGE.write_text(page(RESULTS, PAGE.parent / "img"))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()

"""The sections of the attacks and of compaction in docs/benchmarks.md."""

from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.engine_targets import attack_targets, compaction_targets, shown
from benchmarks.tables import per_second, seconds, table

Result = dict[str, Any]
Row = dict[str, Any]

ATTACKS = """## Attacks

PGD in the L-infinity ball with one radius, one step size and a random start for all sides; each
has a copy of the model to itself and gets all rows as one batch. `python -m benchmarks attacks`.

- *torchattacks*, *foolbox*, *ART*: as shipped, called as their documentation says.
- *eager fp32*, *eager bf16*: PGD as good as plain PyTorch allows (`benchmarks/floor.py`), without a
  test of success; bf16 with weights in bf16, channels last.
- *model floor*: the forwards and backwards that *deitsec fp32* made, and nothing else.
- *deitsec fp32*, *... compile*: the same number of steps for every row (`stop="never"`).
- *deitsec ... first success*: rows stop when they fall; less work for the same answer.

fp32 is full fp32 but for the other libraries, which run as PyTorch is set up: on a GPU that lets
cuDNN take TF32 for convolutions. Success is judged by the model in fp32, alike for all sides: where
ours falls 0.5 points short of the best, or any leaves the ball, no speed is reported.
*noise* is what uniform noise of the same radius flips.
"""
COMPACTION = """## Compaction

PGD-40 that stops at each row's first success, over several batches. *Sample-steps* is the number of
gradients summed over the rows: the work. `python -m benchmarks compaction`.
"""
NOT_MEASURED = "Not measured: no result file is there.\n"


def attacks(results: list[Result], images: Path) -> str:
    """The section of the attacks, with a part for each device."""
    parts = [ATTACKS]
    for result in results:
        rows = [row for row in result["rows"] if row["kind"] == "pgd"]
        attention = [row for row in result["rows"] if row["kind"] == "attention"]
        parts += [f"### Attacks, {result['device']}\n", facts(result)]
        measured = [row for row in rows if row["gate"]["passed"]]
        if measured:
            name = plots.slug("attacks", result["device"]) + ".png"
            plots.rates(measured, images / name, f"PGD, {result['device']}")
            parts.append(f"![Images per second]({images.name}/{name})\n")
            parts.append(shown(attack_targets(measured)))
        parts += [pgd(row) for row in rows]
        if attention:
            parts += [f"### Padded attention, {result['device']}\n", padding(attention)]
    return "\n".join(parts if results else [*parts, NOT_MEASURED])


def compaction(results: list[Result], images: Path) -> str:
    """The section of compaction, with a part for each device."""
    parts = [COMPACTION]
    for result in results:
        parts += [f"### Compaction, {result['device']}\n", facts(result)]
        measured = [row for row in result["rows"] if row["gate"]["passed"]]
        if measured:
            name = plots.slug("compaction", result["device"]) + ".png"
            plots.rows_by_step(measured, images / name, f"Rows by step, {result['device']}")
            parts.append(f"![Rows that still take a step]({images.name}/{name})\n")
            parts.append(shown(compaction_targets(measured)))
        parts += [compacted(row) for row in result["rows"]]
    return "\n".join(parts if results else [*parts, NOT_MEASURED])


def facts(result: Result) -> str:
    """What the figures depend on."""
    return (
        f"PyTorch {result['torch']}, Python {result['python']}, commit {result['commit']}, "
        f"{result['date']}.\n"
    )


def pgd(row: Row) -> str:
    """One network and number of steps."""
    parts = [f"#### {row['network']}, PGD-{row['steps']}\n", about(row)]
    if not row["gate"]["passed"]:
        return "\n".join([*parts, failed_gate(row)])
    best = max(
        (side["images_per_second"] for name, side in row["sides"].items() if is_peer(name)),
        default=None,
    )
    body: list[list[str]] = []
    weaker = row["gate"].get("weaker", {})
    for name, side in row["sides"].items():
        rate = side["images_per_second"]
        mark = " (weaker)" if name in weaker else ""
        body.append(
            [
                name,
                side["precision"],
                f"{side['success']:.1%}{mark}" if "success" in side else "",
                f"{side['sample_steps']:,}" if "sample_steps" in side else "",
                seconds(side["seconds"]),
                per_second(rate),
                f"{rate / best:.2f}x" if best else "",
            ]
        )
    header = ["side", "precision", "success", "sample-steps", "time", "images/s", "best peer"]
    parts.append(table(header, body))
    if "overhead" in row:
        parts.append(f"The engine in fp32 takes {row['overhead']:+.1%} over the model's floor.\n")
    return "\n".join([*parts, absent(row)])


def compacted(row: Row) -> str:
    """One network with compaction, without, and the other library."""
    parts = [f"#### {row['network']}\n", about(row)]
    if not row["gate"]["passed"]:
        return "\n".join([*parts, failed_gate(row)])
    body = [
        [
            name,
            f"{side['success']:.1%}",
            f"{side['sample_steps']:,}",
            seconds(side["seconds"]),
            per_second(side["images_per_second"]),
        ]
        for name, side in row["sides"].items()
    ]
    parts.append(table(["side", "success", "sample-steps", "time", "images/s"], body))
    if "overhead_of_compaction" in row:
        parts.append(f"Time with compaction over without: {row['overhead_of_compaction']:+.1%}.\n")
    return "\n".join([*parts, absent(row)])


def about(row: Row) -> str:
    """Weights, rows and radius in words."""
    text = (
        f"{row['weights'].capitalize()}; {row['batch']} images, eps {row['eps'] * 255:.3g}/255; "
        f"noise {row['noise_success']:.1%}."
    )
    if row.get("rounds", 0) < row.get("rounds_wanted", 0):
        text += f" {row['rounds']} rounds instead of {row['rounds_wanted']}: they are long."
    elif "rounds" in row:
        text += f" {row['rounds']} rounds."
    if "commit" in row:
        text += f" Commit {row['commit']}, {row['date'][:16]}."
    return text + "\n"


def failed_gate(row: Row) -> str:
    """Why there is no speed."""
    faults = "; ".join(f"{side} {fault}" for side, fault in row["gate"]["faults"].items())
    return f"**No speed: the gate failed** ({faults}).\n"


def absent(row: Row) -> str:
    """The sides that are not there, and why."""
    reasons = {**row["missing"], **row["failed"]}
    if not reasons:
        return ""
    return (
        "Not measured: " + "; ".join(f"*{name}* ({why})" for name, why in reasons.items()) + ".\n"
    )


def is_peer(name: str) -> bool:
    """Whether a side is another library."""
    return not name.startswith(("deitsec", "eager", "model"))


def padding(rows: list[Row]) -> str:
    """The times of attention by number of tokens; against 198 as they are."""
    names = list(rows[0]["seconds"])
    body: list[list[str]] = []
    for row in rows:
        plain = row["seconds"].get("198")
        body.append(
            [f"{row['heads']} heads, {row['batch']} rows, {row['dtype']}"]
            + [
                seconds(value) + (f" ({plain / value:.2f}x)" if plain else "")
                for value in (row["seconds"][name] for name in names)
            ]
        )
    return (
        "`scaled_dot_product_attention`, forward and backward; *198 in 256* is 198 tokens padded "
        "to 256 with a mask.\n\n" + table(["", *(f"{name} tokens" for name in names)], body)
    )

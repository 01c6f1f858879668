"""What `deitsec generate` prints when the dataset is there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitsec.cli.display import printable

if TYPE_CHECKING:
    from deitsec.shards import Manifest

_SHOWN_UNREADABLE = 5


def print_summary(manifest: "Manifest", out: Path, *, as_json: bool) -> None:
    """Print what is in a dataset, for people or machines."""
    document = summary(manifest, out)
    if as_json:
        print(json.dumps(document, indent=2))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{document['rows']:,} adversarial images of {printable(document['data'])}"
    table = Table(title=escape(title), box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", overflow="fold")
    table.add_column("model", overflow="fold")
    for name in ("rows", "accuracy", "success", "rows/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in document["variants"]:
        rate = found["rows_per_second"]
        table.add_row(
            escape(printable(found["attack"])),
            escape(f"{printable(found['model'])} {found['model_sha256'][:8]}"),
            f"{found['rows']:,}",
            _share(found["accuracy"]),
            _share(found["success_rate"]),
            "-" if rate is None else f"{rate:,.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        "accuracy: before the attack; success: of all rows, at the stored 8-bit image; rows/s: "
        "while attacking",
        highlight=False,
    )
    listed = document["unreadable"]
    for row in listed[:_SHOWN_UNREADABLE]:
        _say(console, f"not readable: row {row['row']}: {row['reason']}")
    if len(listed) > _SHOWN_UNREADABLE:
        _say(console, f"and {len(listed) - _SHOWN_UNREADABLE} more rows, listed in the manifest")
    _say(console, f"dataset: {out} ({document['shards']} shards, {_size(document['bytes'])})")


def summary(manifest: "Manifest", out: Path) -> dict[str, Any]:
    """What `--json` prints: the dataset in a few figures, and by attack and model."""
    rows = {row.row: row.reason for row in manifest.unreadable}
    for entry in manifest.shards:
        rows |= {row.row: row.reason for row in entry.unreadable}
    return {
        "out": str(out),
        "data": manifest.configuration.source.name,
        "complete": manifest.complete,
        "shards": len(manifest.shards),
        "rows": manifest.rows,
        "successes": manifest.successes,
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "unreadable": [{"row": row, "reason": rows[row]} for row in sorted(rows)],
        "variants": [_variant(manifest, place) for place in _places(manifest)],
    }


def _places(manifest: "Manifest") -> range:
    return range(len(manifest.configuration.variants))


def _variant(manifest: "Manifest", place: int) -> dict[str, Any]:
    record = manifest.configuration.variants[place]
    entries = [entry for entry in manifest.shards if entry.variant == place]
    rows = sum(entry.rows for entry in entries)
    successes = sum(entry.successes for entry in entries)
    correct = sum(entry.correct for entry in entries)
    timed = [(entry.rows, entry.seconds) for entry in entries if entry.seconds]
    seconds = sum(time for _, time in timed)
    return {
        "attack": record.attack,
        "model": record.model,
        "model_sha256": record.model_sha256,
        "rows": rows,
        "successes": successes,
        "success_rate": successes / rows if rows else None,
        "accuracy": correct / rows if rows else None,
        "seconds": seconds,
        "rows_per_second": sum(rows for rows, _ in timed) / seconds if seconds else None,
    }


def _say(console: Any, text: str) -> None:
    """Print text of which parts come from data: one line, no markup."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} {unit}"
        count /= 1000  # pyright: ignore
    return f"{count:,.1f} TB"

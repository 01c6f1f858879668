"""Times the main job: `python -m benchmarks.verification` writes verify.json beside ops.json.

`deitsec verify` with no argument, from a cold cache and again, each in a process of its own: wall
clock from start to exit, and the most memory it held. No time is written for a run whose model is
not what it has to be: clean accuracy of at least 95%, below 10% under PGD.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import TUNED_MALLOC, describe, device_slug

HERE = Path(__file__).parent
LIMITS = {"cold cache": 120.0, "trained model cached": 20.0}  # seconds, on 2 CPU cores
RUNS = {"cold cache": 1, "trained model cached": 3}
MEMORY_LIMIT = 2e9  # bytes


def run_once(folder: Path, name: str) -> dict[str, Any]:
    """One run of the command, measured from outside."""
    environment = {key: value for key, value in os.environ.items() if key not in TUNED_MALLOC}
    environment["DEITSEC_CACHE"] = str(folder / "cache")
    command = [sys.executable, "-m", "deitsec", "verify", "--json", "--out", str(folder / name)]
    start = time.perf_counter()
    printed = folder / f"{name}.json"
    with printed.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output)
        # this child's own peak: RUSAGE_CHILDREN would give the largest of all so far
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, f"exit code {process.returncode}"
    document = json.loads(printed.read_text())
    under_pgd = min(a["accuracy"] for a in document["attacks"] if a["name"] == "pgd")
    clean = document["clean"]["accuracy"]
    assert clean >= 0.95, f"clean accuracy {clean}"
    assert under_pgd < 0.10, f"accuracy under PGD {under_pgd}"
    return {
        "case": name,
        "seconds": seconds,
        "limit_seconds": LIMITS[name],
        "peak_bytes": usage.ru_maxrss * 1024,
        "limit_bytes": MEMORY_LIMIT,
        "clean_accuracy": clean,
        "pgd_accuracy": under_pgd,
        "load": os.getloadavg()[0],
    }


def median_of(folder: Path, name: str, runs: int) -> dict[str, Any]:
    """The run of median time, with the times of all of them."""
    found = sorted((run_once(folder, name) for _ in range(runs)), key=lambda row: row["seconds"])
    return {**found[runs // 2], "all_seconds": [row["seconds"] for row in found]}


def section(result: dict[str, Any]) -> str:
    """The part of docs/benchmarks.md."""
    lines = [
        f"### `deitsec verify`, {result['device']}\n",
        f"commit {result['commit']}, {result['date']}. Wall clock of the whole process; memory is "
        "the most that it held. The cached run is the median of "
        f"{', '.join(f'{s:.1f}' for s in result['rows'][1]['all_seconds'])} s.\n",
        "| run | seconds | promised | peak memory | promised | clean | under PGD |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        met = "" if row["seconds"] < row["limit_seconds"] else " **not met**"
        lines.append(
            f"| {row['case']} | {row['seconds']:.1f}{met} | < {row['limit_seconds']:.0f} | "
            f"{row['peak_bytes'] / 1e9:.2f} GB | < {row['limit_bytes'] / 1e9:.0f} GB | "
            f"{row['clean_accuracy']:.1%} | {row['pgd_accuracy']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure cold, then cached, and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [median_of(Path(folder), name, RUNS[name]) for name in LIMITS]
    out = HERE / "results" / device_slug() / "verify.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**describe(1), "rows": rows}, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

"""Runs the benchmarks of this folder and writes their results as one JSON file."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.environment import describe, device_slug, with_tuned_malloc

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>/ops.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds, at least 5")
    parser.add_argument("-k", dest="select", default="", help="pytest's -k: only these benchmarks")
    return parser.parse_args()


def main() -> int:
    """Measure, then gather pytest-benchmark's record into ours."""
    args = arguments()
    if args.rounds < 5:
        raise SystemExit(f"--rounds must be at least 5, got {args.rounds}")
    with_tuned_malloc()
    import pytest
    import torch

    torch.set_num_threads(args.threads)
    os.environ["DEITSEC_BENCHMARK_ROUNDS"] = str(args.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch) / "record.json"
        options = [
            "-q",
            "-pno:cacheprovider",
            "--benchmark-quiet",
            f"--benchmark-json={record}",
            "-k",
            args.select,
        ]
        code = pytest.main([str(HERE), *options])
        if not record.exists() or not record.read_text():
            return int(code) or 1
        entries = json.loads(record.read_text())["benchmarks"]
    rows = [entry["extra_info"] for entry in entries]
    out = args.out or HERE / "results" / device_slug() / "ops.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**describe(args.rounds), "rows": rows}, indent=1) + "\n")
    print(f"wrote {out}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

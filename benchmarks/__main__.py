"""Runs the benchmarks of this folder and writes one JSON file for each group."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environment import device_slug, with_tuned_malloc
from benchmarks.settings import Settings

HERE = Path(__file__).parent
GROUPS = {
    "ops": ["test_bench_ops.py"],
    "attacks": ["test_bench_attention.py", "test_bench_attacks.py"],
    "compaction": ["test_bench_compaction.py"],
    "precision": ["test_bench_precision.py"],
    "strong": ["test_bench_strong.py"],
    "training": ["test_bench_training.py"],
    "reading": ["test_bench_reading.py"],
    "generation": ["test_bench_generation.py"],
}
LEAST_ROUNDS = 5


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("group", nargs="?", default="ops", choices=[*GROUPS, "all"])
    parser.add_argument(
        "--out", type=Path, help="folder of the result files; default: benchmarks/results/<device>"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: all, 1 if quick")
    parser.add_argument("--rounds", type=int, help="interleaved rounds, at least 5; default 9")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes and one round: to see that it runs"
    )
    parser.add_argument("-k", dest="select", default="", help="pytest's -k: only these benchmarks")
    args = parser.parse_args()
    if args.threads is None:
        args.threads = 1 if args.quick else os.cpu_count()
    if args.rounds is None:
        args.rounds = 1 if args.quick else 9
    elif args.rounds < LEAST_ROUNDS and not args.quick:
        parser.error(f"--rounds must be at least {LEAST_ROUNDS}, got {args.rounds}")
    return args


def run_group(args: argparse.Namespace) -> int:
    """Measure one group in this process."""
    import pytest
    import torch

    torch.set_num_threads(args.threads)
    # quick figures are no results
    usual = Path(tempfile.gettempdir(), "benchmarks") if args.quick else HERE / "results"
    out = ((args.out or usual / device_slug()) / f"{args.group}.json").absolute()
    before = out.stat().st_mtime_ns if out.exists() else None
    keep = bool(args.select)  # a part measured again takes its rows' places in the file
    Settings(rounds=args.rounds, quick=args.quick, out=out, keep=keep).export()
    files = [str(HERE / name) for name in GROUPS[args.group]]
    code = pytest.main([*files, "-q", "-pno:cacheprovider", "--benchmark-quiet", "-k", args.select])
    written = out.exists() and out.stat().st_mtime_ns != before
    print(f"wrote {out}" if written else "nothing was measured")
    return int(code)


def main() -> int:
    """Measure one group, or each in a process of its own."""
    args = arguments()
    with_tuned_malloc()
    if args.group != "all":
        return run_group(args)
    rest = [f"--threads={args.threads}", f"--rounds={args.rounds}", "-k", args.select]
    rest += ["--quick"] * args.quick + ([f"--out={args.out}"] if args.out else [])
    command = [sys.executable, "-m", "benchmarks"]
    return max(subprocess.run([*command, group, *rest], check=False).returncode for group in GROUPS)


if __name__ == "__main__":
    sys.exit(main())

"""Memory of a run and the cost of planning it, each in a process of its own.

`python -m benchmarks.generation_costs memory|planning ROWS` prints what it took as JSON.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from benchmarks.trained import find_source
from deitsec.attacks import RFGSM
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.generation.local import produce
from deitsec.models import build_own


def measured(what: str, rows: int) -> dict[str, Any]:
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.generation_costs", what, str(rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def list_jobs(
    work: Any, jobs: Iterable[Any], folder: Path, tick: Any = None
) -> Generator[Any, None, None]:
    """A runner that makes nothing: it asks for every job, and for the rows of every thousandth."""
    for job in jobs:
        if job.shard % 1000 == 0:
            work.plan.rows_of(job)
    yield from ()


def main() -> None:
    """Make or plan a dataset of one attack on the small network, and print the cost."""
    what, rows = sys.argv[1], int(sys.argv[2])
    model = build_own("small_cnn", in_chans=1, image_size=28).eval()
    engine = Engine(model, batch_size=256)
    source = find_source()
    assert source.sha256
    before, started = _peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        generate(
            engine,
            RFGSM(eps=0.1),
            source,
            out=Path(folder) / "out",
            settings=Settings(rows=rows),
            runner=list_jobs if what == "planning" else produce,
        )
    seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "peak_bytes": _peak(), "grown_bytes": _peak() - before}
    print(json.dumps({"rows": rows, **figures}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

"""Training in several processes: starting them, and what each of them has to know."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from tempfile import TemporaryFile

from deitsec.cli.options import choose_device

_GRACE = 10.0  # seconds that the others have to end by themselves once one has failed


def launch(processes: int, words: Sequence[str], device: str | None) -> int:
    """Run a command line once in each of several processes; return the exit code.

    The first one alone is heard, unless another fails while it goes on. Once one fails, the rest
    are ended.

    Args:
        processes: how many.
        words: of the command line, without the program; `--accelerate` may stay.
        device: that they were asked to train on, if any.

    Raises:
        ImportError: if Accelerate is not installed.
        ValueError: if there are fewer GPUs than processes that are to train on one each.
    """
    import torch

    if find_spec("accelerate") is None:
        raise ImportError("--accelerate needs Accelerate: pip install 'deitsec[accelerate]'")
    gpus = torch.cuda.device_count()
    if choose_device(device) != "cpu" and gpus < processes:
        raise ValueError(f"--accelerate must be at most {gpus}, the GPUs here, got {processes}")
    return run_together([sys.executable, "-m", "deitsec", *words], processes)


def run_together(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes that find one another; return the first failure's code."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    together = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    with TemporaryFile() as unheard:
        started = [
            subprocess.Popen(
                command,
                env={**together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=unheard if rank else None,
                stderr=unheard if rank else None,
            )
            for rank in range(processes)
        ]
        try:
            _wait(started)
            codes = [process.poll() for process in started]
        finally:
            _end(started)
        if codes[0] is None:  # another failed, and the first did not notice
            unheard.seek(0)
            sys.stderr.write(unheard.read().decode(errors="replace"))
    failed = [code for code in codes if code]
    # as a shell has it, a process that a signal ended counts as 128 and its number
    return next((code if code > 0 else 128 - code for code in failed), 0)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or one failed and the rest had time to end by themselves."""
    until = float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < until:
        if until == float("inf") and any(process.poll() for process in started):
            until = time.monotonic() + _GRACE
        time.sleep(0.05)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_device(named: str | None) -> str:
    """The device of this process: as named, else the GPU of its number, else the CPU.

    Raises:
        ValueError: a device that this machine does not have.
    """
    place = choose_device(named)
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if place == "cuda" and local is not None else place


def precision_of_launcher(given: str | None) -> str | None:
    """The precision that was given, else the one that `accelerate launch` was told.

    Raises:
        ValueError: a mixed precision of the launcher that training does not have.
    """
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if given is not None or told == "no":
        return given
    if told != "bf16":
        raise ValueError(f"--mixed_precision must be no or bf16, got {told}")
    return told

"""Training in several processes: starting them, and what each of them has to know."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from deitsec.cli.options import choose_device


def launch(processes: int, words: Sequence[str]) -> int:
    """Run a command line once in each of several processes; return the exit code.

    Args:
        processes: how many.
        words: of the command line, without the program; `--accelerate` may stay.

    Raises:
        ImportError: if Accelerate is not installed.
        ValueError: if there are fewer GPUs than processes, but some.
    """
    import torch

    if find_spec("accelerate") is None:
        raise ImportError("--accelerate needs Accelerate: pip install 'deitsec[accelerate]'")
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ValueError(f"--accelerate must be at most {gpus}, the GPUs here, got {processes}")
    # torch's launcher, which `accelerate launch` calls for GPUs, starts CPU processes too
    started = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *started, "-m", "deitsec", *words]
    return subprocess.run(command, check=False).returncode


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

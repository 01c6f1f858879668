"""A connection to Ray: a small one of its own for the length of a run, or a cluster."""

import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_SOCKET_ROOM = 30  # characters: Ray puts sockets below, whose paths must be shorter than 108
_FOLDER = "deitsec-ray-"  # and the process that it belongs to
_MISSING = "the Ray runner needs ray: pip install 'deitsec[ray]'"


def check_ray() -> None:
    """Refuse to go on without Ray.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ImportError(_MISSING)


@contextmanager
def connected(address: str | None, *, workers: int, gpus: float) -> Generator[tuple[Any, int]]:
    """Connect to Ray, and let go of it at the end.

    Without an address the cluster that this process is connected to is used, and left connected;
    where there is none, one is started on this machine and taken down again with all its files.

    Args:
        address: of the cluster, `auto` for the one that runs on this machine.
        workers: that are wanted.
        gpus: of each worker.

    Yields:
        The module `ray`, and how many threads each worker gets.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no such cluster, or no machine of it has room for a worker.
    """
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        if address is not None:
            raise ValueError(
                "this process is connected to a Ray cluster already: leave the address out to use "
                "it, or call ray.shutdown() first"
            )
        yield ray, _threads(ray.nodes(), workers, gpus)
    elif address is None:
        with _embedded(ray, workers, gpus) as threads:
            yield ray, threads
    else:
        try:
            with _quiet():
                ray.init(address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(f"--address {address}: no Ray cluster answers there ({reason})") from (
                error
            )
        try:
            yield ray, _threads(ray.nodes(), workers, gpus)
        finally:
            ray.shutdown()


@contextmanager
def _embedded(ray: Any, workers: int, gpus: float) -> Generator[int]:
    threads = max(1, torch.get_num_threads() // workers)
    root = Path(tempfile.gettempdir())
    if len(str(root)) > _SOCKET_ROOM:
        root = Path("/tmp")
    _remove_abandoned(root)
    place = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=root)
    try:
        with _quiet():
            ray.init(
                "local",
                num_cpus=threads * workers,
                num_gpus=None if gpus else 0,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=place,
            )
            _threads(ray.nodes(), workers, gpus)
            yield threads
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of runs that were killed; those of other users stay by themselves."""
    for folder in root.glob(f"{_FOLDER}*"):
        process = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _threads(nodes: list[dict[str, Any]], workers: int, gpus: float) -> int:
    """Threads of a worker, when workers are spread evenly over the machines that have room."""
    cores = [
        int(node["Resources"].get("CPU", 0))
        for node in nodes
        if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus
    ]
    cores = [count for count in cores if count]
    if not cores:
        raise ValueError(
            f"no machine of the Ray cluster has a CPU core{f' and {gpus:g} GPU' if gpus else ''}: "
            "start one that has, or ask for less by --gpus-per-worker"
        )
    return max(1, min(cores) // -(-workers // len(cores)))


@contextmanager
def _quiet() -> Generator[None]:
    """Ray's notices about itself are not a user's business; its errors are raised."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

"""What this process runs on, for reports, benchmarks and `deitsec doctor`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import deitsec


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions and hardware, as the report's `environment` names them.

    Args:
        device: where the model runs.
    """
    return {
        "deitsec": deitsec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "timm": package_version("timm"),
        "numpy": package_version("numpy"),
        "platform": platform.platform(),
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "device": _device_name(torch.device(device)),
    }


def cache_folder() -> Path:
    """Where models and downloads are kept: $DEITSEC_CACHE, else ~/.cache/deitsec."""
    named = os.environ.get("DEITSEC_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "deitsec"


def package_version(package: str) -> str | None:
    """The installed version of a package, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

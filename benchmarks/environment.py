"""What a result depends on: the device, the versions, the allocator."""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# Without these glibc returns every large tensor to the kernel, and each new one costs page faults:
# eager PyTorch, which makes a temporary per operation, would look several times slower.
TUNED_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def with_tuned_malloc() -> None:
    """Start this program again with the allocator tuned, the same for every side; once."""
    if all(os.environ.get(name) == value for name, value in TUNED_MALLOC.items()):
        return
    os.environ.update(TUNED_MALLOC)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = (
        re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def device_name() -> str:
    """The GPU where there is one, else the CPU with its threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"


def device_slug() -> str:
    """The device as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")


def commit() -> str:
    """The commit that was measured, `+` behind it where files had changed."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    return head + (
        "+" if git("status", "--porcelain", "--", "..", ":!../benchmarks/results") else ""
    )


def describe(rounds: int) -> dict[str, Any]:
    """Everything a reader needs to measure the same again."""
    import torch

    from deitsec import native

    return {
        "device": device_name(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "native": native.build_info(),
        "malloc": TUNED_MALLOC,
        "rounds": rounds,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

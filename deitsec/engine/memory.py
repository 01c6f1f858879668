"""How many rows fit, found out by one step, and how much memory was used."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from deitsec.engine.driver import Driver

MOST_ROWS = 256
_CPU_BUDGET = 1 << 30  # a CPU has no launches to save: larger batches would only take memory
_GPU_SHARE = 0.8  # of the free memory; the rest is for fragments and the caller
_IMAGES_HELD = 8  # copies of each image that a run holds beside the model's
_TEMPORARIES = 2  # what a backward pass needs, in units of what it finds saved
# of the CPU's allocator, of cuBLAS and cuDNN, of the CUDA runtime
_OUT_OF_MEMORY = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; only the GPU's caching allocator has a class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def rows_by_size(shape: Sequence[int]) -> int:
    """Rows of an image shape (C, H, W) that go together where nothing was measured."""
    # a DeiT's activations for one gradient take about 300 bytes for each value of its image
    return min(MOST_ROWS, max(8, (1 << 31) // (300 * math.prod(shape))))


def bytes_per_row(driver: Driver, weights: Iterable[Tensor], x: Tensor) -> int:
    """Memory that a row takes during one step, measured on `x` (B, C, H, W).

    On a GPU the allocator is asked; on a CPU it is what the forward pass saves for the backward
    pass, the weights left out, twice.
    """
    if x.device.type == "cuda":
        _step(driver, x)  # the first one makes workspaces that stay, which are no row's
        torch.cuda.synchronize(x.device)
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        _step(driver, x)
        used = torch.cuda.max_memory_allocated(x.device) - before
    else:
        standing = {weight.untyped_storage().data_ptr() for weight in weights}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in standing:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            _step(driver, x)
        used = _TEMPORARIES * sum(saved.values())
    return used // len(x) + _IMAGES_HELD * x[0].numel() * x.element_size()


def rows_that_fit(row: int, device: torch.device) -> int:
    """Rows of so many bytes that the device takes together, at most `MOST_ROWS`."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        budget = int(_GPU_SHARE * (free + held))
    else:
        budget = min(_CPU_BUDGET, available() // 4)
    return max(1, min(MOST_ROWS, budget // max(1, row)))


def _step(driver: Driver, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        output = driver(leaf)
    driver.backward(output, leaf, torch.ones_like(output))


def available() -> int:
    """Bytes of memory that a process may still take, or 4 GiB where it is not known."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 4 << 30


class PeakMemory:
    """The most memory in use since this was made.

    On a GPU PyTorch's peak statistics start anew; on Linux the process's high-water mark does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.known = False
        else:
            self.known = True

    def bytes(self) -> int:
        """So many bytes, or 0 where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.known:
            for line in _lines("/proc/self/status"):
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

"""Which of several ways is the fastest here, measured once and remembered on disk."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from deitsec.environment import cache_folder
from deitsec.whole_files import replace_files

_ROUNDS = 5
_GAIN = 0.95  # another way than the first is taken only where it needs less than this of its time


def fastest(
    ways: Mapping[str, Callable[[], object]], device: torch.device
) -> tuple[str, dict[str, float]]:
    """The name of the fastest way and the least seconds of each; the first wins near ties.

    The least and not the median: other processes can only slow a way down. Ways that raise a
    RuntimeError are left out, but the first must work.
    """
    seconds: dict[str, list[float]] = {}
    for name, way in ways.items():
        try:
            way()
        except RuntimeError:
            if not seconds:
                raise
            continue
        seconds[name] = []
    for _ in range(_ROUNDS):
        for name, times in seconds.items():
            _wait(device)
            start = time.perf_counter()
            ways[name]()
            _wait(device)
            times.append(time.perf_counter() - start)
    least = {name: min(times) for name, times in seconds.items()}
    first = next(iter(least))
    best = min(least, key=least.__getitem__)
    return (best if least[best] < _GAIN * least[first] else first), least


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def model_key(model: nn.Module, *more: object) -> str:
    """A name for the structure of a model on this device; weights do not matter to speed."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads()
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    text = repr((type(model).__name__, shapes, place, torch.__version__, more))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Remembered:
    """Choices by key, in `$DEITSEC_CACHE/choices.json`; a file that cannot be used is passed over.

    So a model runs in the same form, and gives the same bits, each time on one machine.
    """

    def __init__(self) -> None:
        self.path = cache_folder() / "choices.json"

    def get(self, key: str) -> str | None:
        """What was chosen, or None."""
        found = self._read().get(key)
        return found if isinstance(found, str) else None

    def put(self, key: str, choice: str) -> None:
        """Remember a choice."""
        with contextlib.suppress(OSError):
            text = json.dumps({**self._read(), key: choice}, indent=1) + "\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_files({self.path: text.encode()})

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

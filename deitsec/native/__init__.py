"""The compiled libraries: what was built, what could be loaded, and why not."""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).parent
_LIBRARIES = {"cpp": _HERE / "libdeitsec_cpu.so", "cuda": _HERE / "libdeitsec_cuda.so"}


@functools.cache
def build_record() -> dict[str, Any]:
    """What the build wrote down: compilers, versions, and for each part why it was not built."""
    path = _HERE / "build.json"
    if not path.exists():
        reason = "this copy was never built; run `pip install .` or `pip install -e .`"
        return {"not_built": {"cpp": reason, "cuda": reason}}
    return json.loads(path.read_text())


@functools.cache
def build_info() -> dict[str, Any]:
    """What the compiled `_buildinfo` module says of itself and of this processor; empty without."""
    try:
        module = importlib.import_module("deitsec.native._buildinfo")
    except ImportError:
        return {}
    return dict(module.describe())


@functools.cache
def missing(backend: str) -> str | None:
    """Load the library of a backend (`cpp` or `cuda`) once.

    Returns:
        None if it is loaded, else the reason why it is not.
    """
    path = _LIBRARIES[backend]
    not_built = build_record().get("not_built", {})
    if not path.exists():
        return not_built.get(backend, f"{path.name} is not in the package")
    if backend == "cuda" and torch.version.cuda is None:
        return "this PyTorch is a CPU build"
    if backend == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded: {error}"
    return None

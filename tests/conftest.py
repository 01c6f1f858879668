"""What every test runs under: the installed package, poisoned memory, a reason for each skip."""

import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1].resolve()


def _installed_from_elsewhere() -> bool:
    """Whether deitsec is installed as a copy, not as a link to this checkout."""
    try:
        origin = distribution("deitsec").read_text("direct_url.json")
    except PackageNotFoundError:
        return False
    return not json.loads(origin or "{}").get("dir_info", {}).get("editable", False)


# `python -m pytest` puts the checkout first: its deitsec/, which has neither libraries nor kernels,
# would hide the installed one.
if _installed_from_elsewhere():
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# what cuBLAS needs to be deterministic, read when its first handle is made
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    reason = f"needs a CUDA device; PyTorch {torch.__version__} ({build} build) sees none"
    for item in items:
        marker = item.get_closest_marker("gpu")
        # a test that knows better says itself what it lacks
        if marker is not None and not marker.kwargs.get("says_why", False):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New memory holds NaN (integers: the largest), so that an element nobody wrote is seen.

    Deterministic mode fills at::empty itself, so it reaches the compiled kernels' outputs too.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before, warn_only=warn_only)


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """Every test draws the same numbers in every order of tests."""
    torch.manual_seed(0)

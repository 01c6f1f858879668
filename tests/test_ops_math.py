"""The arithmetic under the kernels, number by number: csrc/math has no torch in it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler: no c++ on PATH, CXX not set")
@pytest.mark.parametrize(
    "rounding", [["-ffp-contract=off"], ["-ffp-contract=fast", "-march=native"]]
)
def test_conversions_exp_and_philox_are_exact_or_within_their_bounds(
    rounding: list[str], tmp_path: Path
) -> None:
    """With and without fused multiply-add: the losses are built with, the other ops without it."""
    program = tmp_path / "math_check"
    flags = ["-std=c++20", "-O2", *rounding, f"-I{ROOT / 'csrc'}"]
    source = str(ROOT / "tests" / "math_check.cpp")
    subprocess.run([str(COMPILER), *flags, source, "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout

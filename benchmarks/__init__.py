"""Speed, side by side in one run: `python -m benchmarks`, then `python -m benchmarks.render`."""

import sys
from pathlib import Path

# `python -m` puts the checkout first: its deitsec/ would hide one that is installed as a copy, and
# then has neither libraries nor kernels.
_ROOT = Path(__file__).parents[1].resolve()
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]
sys.path.append(str(_ROOT))

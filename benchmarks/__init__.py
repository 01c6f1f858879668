"""Speed, side by side in one run: `python -m benchmarks`, then `python -m benchmarks.render`."""

import sys
from pathlib import Path

# `python -m` puts the checkout first: where deitsec is installed as a copy, the checkout's deitsec/,
# which has neither libraries nor kernels, would hide it.
_ROOT = Path(__file__).parents[1].resolve()
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]
sys.path.append(str(_ROOT))

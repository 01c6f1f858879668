"""Speed, side by side in one run: `python -m benchmarks`, then `python -m benchmarks.render`."""

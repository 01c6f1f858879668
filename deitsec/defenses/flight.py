"""The rows that a model is asked about outside of an engine, for a model that draws."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from deitsec.types import IN_FLIGHT, InFlight

_STREAM = (1 << 31) - 2  # neither a step of an attack nor its check draws from it


@contextmanager
def in_flight(sample_ids: Tensor, seed: int) -> Generator[None, None, None]:
    """Within it a model's draws belong to these samples, not to their places in the batch.

    Args:
        sample_ids: (B,) int64, on the device of the images.
        seed: of the draws.
    """
    token = IN_FLIGHT.set(InFlight(sample_ids=sample_ids, seed=seed, stream=_STREAM))
    try:
        yield
    finally:
        IN_FLIGHT.reset(token)

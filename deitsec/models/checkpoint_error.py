"""The error for weights that cannot be had or cannot be trusted."""


class CheckpointError(ValueError):
    """Weights are unreadable, unsafe, altered, not to be had, or made for another network."""

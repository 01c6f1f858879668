"""The error of a training run whose loss or weights stopped being finite."""


class TrainingDiverged(RuntimeError):  # noqa: N818 - it names what happened
    """The loss or a weight became NaN or infinite; the model holds its last good weights.

    Attributes:
        epoch: the epoch in which it was seen, counted from 1.
        step: the step of that epoch, counted from 1.
    """

    def __init__(self, what: str, *, epoch: int, step: int, lr: float) -> None:
        """Say what was seen, where, and what usually helps."""
        super().__init__(
            f"{what} is not finite in epoch {epoch}, step {step}, at lr {lr:.3g}: the last good "
            "weights were restored; try a smaller lr, a longer warmup or clip_grad"
        )
        self.epoch = epoch
        self.step = step

"""The error of a training run whose loss or weights stopped being finite."""


class TrainingDiverged(RuntimeError):  # noqa: N818 - it names what happened
    """The loss or a weight became NaN or infinite; the model holds its last good weights.

    Attributes:
        epoch: the epoch in which it was seen, counted from 1.
        step: the step of that epoch, counted from 1.
        kept_epoch: the epoch whose weights the model holds; 0 for those of the start.
    """

    def __init__(self, what: str, *, epoch: int, step: int, lr: float, kept_epoch: int) -> None:
        """Say what was seen, where, and what usually helps."""
        kept = f"the last good weights (epoch {kept_epoch})" if kept_epoch else "those at the start"
        super().__init__(
            f"{what} is not finite in epoch {epoch}, step {step}, at lr {lr:.3g}: {kept} were "
            "restored; try a smaller lr, a longer warmup or clip_grad"
        )
        self.epoch = epoch
        self.step = step
        self.kept_epoch = kept_epoch

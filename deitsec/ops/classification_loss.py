"""The losses that attacks climb, by name; all give (loss, gradient, predicted)."""

from torch import Tensor

from deitsec.ops.cross_entropy_loss import cross_entropy_loss
from deitsec.ops.dlr_loss import dlr_loss
from deitsec.ops.margin_loss import margin_loss
from deitsec.ops.targeted_dlr_loss import targeted_dlr_loss

LOSSES = {"ce": cross_entropy_loss, "margin": margin_loss, "dlr": dlr_loss}
TARGETED_LOSSES = {"targeted_dlr": targeted_dlr_loss}


def classification_loss(
    logits: Tensor, labels: Tensor, loss: str = "ce", targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row loss at `labels`, its gradient in the logits, and the predicted class.

    Feed the gradient to `torch.autograd.grad(logits, images, gradient)`: each row's own loss, so
    nothing shrinks with the batch.

    Args:
        logits: (B, K), K >= 2; 3 for `dlr`, 4 for `targeted_dlr`.
        labels: (B,) int64.
        loss: `ce` is cross-entropy, `margin` the largest other logit less the label's, `dlr` the
            difference of logits ratio (keys of `LOSSES`); `targeted_dlr` rises as the label falls
            and the target rises (key of `TARGETED_LOSSES`).
        targets: (B,) int64, for a loss of `TARGETED_LOSSES` and for no other.

    Returns:
        loss (B,) fp32, gradient (B, K) in the dtype of the logits, predicted (B,) int64.

    Raises:
        ValueError: unknown loss, targets missing or not used, or what the loss itself raises.
        IndexError: a label or target out of range, on the CPU.
    """
    if loss in LOSSES:
        if targets is not None:
            raise ValueError(f"{loss} takes no targets; {', '.join(TARGETED_LOSSES)} does")
        return LOSSES[loss](logits, labels)
    if loss in TARGETED_LOSSES:
        if targets is None:
            raise ValueError(f"{loss} needs targets, got None")
        return TARGETED_LOSSES[loss](logits, labels, targets)
    names = ", ".join([*LOSSES, *TARGETED_LOSSES])
    raise ValueError(f"loss must be one of {names}, got {loss!r}")

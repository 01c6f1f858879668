"""The losses that attacks climb, by name; all give (loss, gradient, predicted)."""

from torch import Tensor

from deitsec.ops.cross_entropy_loss import cross_entropy_loss

LOSSES = {"ce": cross_entropy_loss}


def classification_loss(
    logits: Tensor, labels: Tensor, loss: str = "ce"
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row loss at `labels`, its gradient in the logits, and the predicted class.

    Feed the gradient to `torch.autograd.grad(logits, images, gradient)`: each row's own loss, so
    nothing shrinks with the batch.

    Args:
        logits: (B, K), K >= 2.
        labels: (B,) int64.
        loss: a key of `LOSSES`; `ce` is cross-entropy.

    Returns:
        loss (B,) fp32, gradient (B, K) in the dtype of the logits, predicted (B,) int64.

    Raises:
        ValueError: unknown loss, or what the loss itself raises.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    return LOSSES[loss](logits, labels)

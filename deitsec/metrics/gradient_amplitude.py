"""How large a classifier's gradients in the image are, also where floats cannot hold them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from deitsec.engine.checked_model import CheckedModel, ModelError, check_clean
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.memory import rows_by_size
from deitsec.engine.rows import check_images
from deitsec.types import IN_FLIGHT, InFlight

AMPLITUDE_EDGES = (-40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -5.0, -3.0)
"""log10 of the borders between the ten ranges of Papernot et al. (arXiv:1511.04508, figure 8)."""

Measure = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def log10_gradient_amplitude(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int | None = None,
) -> Tensor:
    """Mean amplitude of the gradients of a classifier's probabilities in the image, as a log10.

    log10 of the mean of |d p_k / d x_j| over the values j of the image and the classes k (Papernot
    et al., arXiv:1511.04508, section V-C), p = softmax(logits). It does not underflow: the gradient
    of each probability is that of a combination of logits whose coefficients p_k p_i are scaled
    by their largest before the backward pass, and the scale is added back as a logarithm.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits; asked in eval mode and left as found.
        images: (B, C, H, W) float in [0, 1].
        labels: (B,) integer classes whose probability is looked at; None takes the mean over all
            classes, at a backward pass each.
        batch_size: images that go together; None takes what fits.

    Returns:
        (B,) float64 on the device of the images; -inf where every derivative is exactly 0.

    Raises:
        TypeError: images that are not floating.
        ValueError: images out of range, labels that do not fit, or a batch_size below 1.
        ModelError: logits that are not finite, or that have no gradient in the image.
    """

    def measure(logits: Tensor, x: Tensor, classes: Tensor | None) -> Tensor:
        of_label = [classes] if classes is not None else _each_class(logits)
        logs = torch.stack([_log_amplitude(logits, x, one, _log_mean) for one in of_label])
        log_p = logits.detach().double().log_softmax(1)
        logs = logs + torch.stack([log_p.gather(1, one[:, None])[:, 0] for one in of_label])
        return logs.logsumexp(0) - math.log(len(of_label))

    return _measured(measure, model, images, labels, batch_size)


def log10_loss_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """L2 norm of the gradient of the cross-entropy in the image, as a log10 that never underflows.

    What drives a gradient attack (Carlini et al., arXiv:1902.06705, section 5.4): below about 1e-38
    it is 0 in fp32 and nothing does.

    Args:
        model, images, batch_size: as in `log10_gradient_amplitude`.
        labels: (B,) integer classes of the loss.

    Returns:
        (B,) float64; -inf where the gradient is exactly 0 at any scale.

    Raises:
        TypeError, ValueError, ModelError: as `log10_gradient_amplitude`.
    """

    def measure(logits: Tensor, x: Tensor, classes: Tensor | None) -> Tensor:
        assert classes is not None
        return _log_amplitude(logits, x, classes, _log_norm)

    return _measured(measure, model, images, labels, batch_size)


def amplitude_shares(log10: Tensor) -> list[float]:
    """Share of the images in each of the ten ranges that `AMPLITUDE_EDGES` divides, lowest first.

    Args:
        log10: (B,) from `log10_gradient_amplitude`; one on a border belongs to the upper range.

    Raises:
        ValueError: no image, or NaN.
    """
    if log10.numel() == 0 or bool(log10.isnan().any()):
        raise ValueError(f"log10 must hold at least one number and no NaN, got {log10.numel()}")
    edges = torch.tensor(AMPLITUDE_EDGES, dtype=torch.float64)
    place = torch.bucketize(log10.double().cpu(), edges, right=True)
    counts = torch.bincount(place, minlength=len(AMPLITUDE_EDGES) + 1)
    return [count / log10.numel() for count in counts.tolist()]


@torch.inference_mode(False)
def _measured(
    measure: Measure,
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    batch_size: int | None,
) -> Tensor:
    """(B,) float64 log10 of what `measure` gives as natural logarithms, batch by batch."""
    check_images(images)
    if labels is not None and (labels.shape != (len(images),) or labels.is_floating_point()):
        raise ValueError(
            f"labels must be ({len(images)},) integers, got {tuple(labels.shape)} {labels.dtype}"
        )
    if labels is not None and len(labels) and int(labels.min()) < 0:
        raise ValueError(f"labels must be at least 0, got {int(labels.min())}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = next((p.device for p in model.parameters()), images.device)
    checked = CheckedModel(model, torch.zeros(1) if labels is None else labels)
    size = batch_size or rows_by_size(images.shape[1:])
    found: list[Tensor] = []
    with attack_mode(model), calculation(device, deterministic=False), torch.enable_grad():
        for rows in torch.arange(len(images)).split(size):
            x = images[rows.to(images.device)].detach().clone().to(device).requires_grad_()
            logits = _logits(checked, x, rows.to(device))
            if labels is None:
                classes = None
            else:
                classes = labels[rows.to(labels.device)].to(device, torch.int64)
            found.append(measure(logits, x, classes) / math.log(10))
    return torch.cat(found).to(images.device)


def _logits(checked: CheckedModel, x: Tensor, ids: Tensor) -> Tensor:
    """Logits in the graph of `x`; a model that draws numbers draws those of the row's number."""
    token = IN_FLIGHT.set(InFlight(sample_ids=ids, seed=0, stream=0))
    try:
        logits = checked(x)
    finally:
        IN_FLIGHT.reset(token)
    check_clean(logits.detach(), ids)
    if not logits.requires_grad:
        raise ModelError("the model's logits do not depend on its input in a differentiable way")
    return logits


def _each_class(logits: Tensor) -> list[Tensor]:
    everyone = torch.arange(logits.shape[1], device=logits.device)
    return [one.expand(len(logits)) for one in everyone]


def _log_amplitude(
    logits: Tensor, x: Tensor, classes: Tensor, amplitude: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B,) float64 natural log of the amplitude of d log p_c / d x, c the class of each row.

    d log p_c / d z_i = [i = c] - p_i; the entry of c is the sum of the others, since 1 - p_c would
    cancel. The coefficients are divided by that entry, their largest.
    """
    log_p = logits.detach().double().log_softmax(1)
    others = log_p.scatter(1, classes[:, None], -torch.inf)
    scale = others.logsumexp(1, keepdim=True)
    coefficients = (-(others - scale).exp()).scatter(1, classes[:, None], 1.0)
    given = coefficients.to(logits.dtype)
    (grad,) = torch.autograd.grad(logits, x, given, retain_graph=True)
    return amplitude(grad.detach().double().flatten(1)) + scale[:, 0]


def _log_mean(grad: Tensor) -> Tensor:
    return grad.abs().mean(1).log()


def _log_norm(grad: Tensor) -> Tensor:
    return torch.linalg.vector_norm(grad, dim=1).log()

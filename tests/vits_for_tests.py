"""Tiny vision transformers with random weights, whose answers a small change turns."""

import torch
from torch import Tensor, nn

from deitsec.models import Classifier, deit_micro


def tiny_deit(
    *, classes: int = 5, side: int = 8, channels: int = 1, head: str = "average", seed: int = 0
) -> Classifier:
    """A distilled DeiT in float64: two blocks, 2 heads of 8 channels, 4 x 4 patches."""
    torch.manual_seed(seed)
    network = deit_micro(
        num_classes=classes,
        in_chans=channels,
        image_size=side,
        embed_dim=16,
        depth=2,
        num_heads=2,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
            if "head" in name:
                parameter.mul_(4)  # confident answers
    return Classifier(
        network.double().eval(),
        name="tiny_deit",
        num_classes=classes,
        in_chans=channels,
        input_size=None,
        mean=[0.5],
        std=[0.25],
        head=head,
    )


def rows(
    model: nn.Module, number: int = 16, shape: tuple[int, ...] = (1, 8, 8)
) -> tuple[Tensor, Tensor]:
    """Images and the labels that the model gives them."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(number, *shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        return images, model(images).argmax(1)

"""Small models whose optimum is known, or that misbehave in one way."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Two classes, logits ±(w . x + b) / 2, so that the margin is w . x + b."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = bias

    def margin(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.flatten() + self.bias

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([margin / 2, -margin / 2], 1)


def mlp(classes: int = 5, pixels: int = 36, seed: int = 0) -> nn.Module:
    """A float64 network with batch norm and dropout: rows and modes would show if they mixed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 24),
        nn.BatchNorm1d(24),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(24, classes),
    ).double()
    with torch.no_grad():
        model[-1].weight.mul_(6)  # confident answers
    return model.eval()


def images_and_labels(
    model: nn.Module, rows: int = 24, side: int = 6, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], some on its border, and the labels that the model itself gives them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(rows, 1, side, side, dtype=torch.float64, generator=generator)
    images = (images * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        return images, model(images).argmax(1)

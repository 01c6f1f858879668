"""Two small networks with real weights: one trained as usual, one that resists small changes.

Trained once and kept beside deitsec's other models. MNIST is taken where `../shared/data/mnist.npz`
or the file in DEITSEC_BENCHMARK_MNIST is there, else scikit-learn's digits, upscaled to 28 pixels.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.floor import frozen, tuned_pgd
from deitsec.data import DataSource, load_data, to_float
from deitsec.environment import cache_folder
from deitsec.models import Classifier, load_model
from deitsec.models.zoo import build_own

SIDE = 28
TRAINING_ROWS = 6000
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist.npz"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A short training.

    Attributes:
        name: of the file that keeps the weights.
        eps: L-infinity radius of the examples that are trained on; 0 trains on the images.
        updates: of Adam, each on 128 images.
        attack_steps: PGD steps that make an example.
    """

    name: str
    eps: float = 0.0
    updates: int = 250
    attack_steps: int = 0
    seed: int = 0


UNDEFENDED = Recipe(name="small_cnn")
DEFENDED = Recipe(name="small_cnn_adversarial", eps=0.1, updates=300, attack_steps=3)
STURDY = Recipe(name="small_cnn_sturdy", eps=0.2, updates=400, attack_steps=4)
BATCH = 128


def find_source() -> DataSource:
    """MNIST where its file is, else the digits; 28 pixels."""
    file = Path(os.environ.get("DEITSEC_BENCHMARK_MNIST", MNIST))
    if file.exists():
        return load_data(f"npz:{file}")
    return load_data("digits", image_size=SIDE)


def source_name(source: DataSource) -> str:
    """What the result says of the data."""
    if source.uri == "digits":
        return f"scikit-learn's digits, upscaled to {SIDE} pixels"
    return "MNIST"


def small_network(recipe: Recipe, source: DataSource, device: str) -> Classifier:
    """The network of a recipe in eval mode, from the cache or trained now."""
    data = "digits" if source.uri == "digits" else "mnist"
    settings = f"{recipe.eps}-{recipe.updates}-{recipe.attack_steps}-{recipe.seed}"
    file = cache_folder() / "benchmarks" / f"{recipe.name}-{data}-{settings}.safetensors"
    if not file.exists():
        from deitsec.models import save_checkpoint

        file.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(train(recipe, source, device).cpu(), file)
    return load_model(checkpoint=file).to(device).eval()


def train(recipe: Recipe, source: DataSource, device: str) -> Classifier:
    """Train on random batches; adversarial examples where the recipe has a radius."""
    split = source.train
    assert split is not None, f"{source.uri} has no training split"
    torch.manual_seed(recipe.seed)
    rows = torch.randperm(len(split))[:TRAINING_ROWS]
    images, labels = to_float(split.images(rows)).to(device), split.labels[rows].to(device)
    model = build_own("small_cnn", in_chans=1, image_size=SIDE).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=recipe.updates)
    for _ in range(recipe.updates):
        drawn = torch.randint(0, len(labels), (BATCH,), device=device)
        batch = hardened(model, recipe, images[drawn], labels[drawn])
        model.train()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch), labels[drawn]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def hardened(model: Classifier, recipe: Recipe, images: Tensor, labels: Tensor) -> Tensor:
    """The images, or examples of PGD against the model as it is now."""
    if not recipe.attack_steps:
        return images
    alpha = 2.5 * recipe.eps / recipe.attack_steps
    return tuned_pgd(frozen(model), recipe.eps, alpha, recipe.attack_steps)(images, labels)

"""The networks that are attacked, with images, labels and a radius that says something."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.floor import frozen, tuned_pgd
from benchmarks.trained import (
    DEFENDED,
    UNDEFENDED,
    Recipe,
    find_source,
    small_network,
    source_name,
)
from deitsec.data import to_float
from deitsec.models import Classifier, load_model

# the random-weight networks break at radii that depend on their depth; none of these is special
LADDER = tuple(2.0**power / 255 for power in range(-3, 6))
MARGIN = 2


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network with what it is attacked on.

    Attributes:
        model: images in [0, 1] to logits, eval mode, learnable as its users have it.
        images: (B, C, H, W), all classified as their labels.
        labels: (B,) int64.
        eps: L-infinity radius.
        weights: where the weights and images come from, in words.
        noise_success: share of rows that uniform noise of this radius flips.
    """

    model: Classifier
    images: Tensor
    labels: Tensor
    eps: float
    weights: str
    noise_success: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """One line of the tables.

    Attributes:
        name: its name there.
        build: makes it with random weights; None for a trained one.
        recipe: how it is trained; None for random weights.
        rows: images on a CPU, and on a GPU.
        eps: radius; None searches for one, see `breaking_eps`.
    """

    name: str
    rows: tuple[int, int]
    build: Callable[[], Classifier] | None = None
    recipe: Recipe | None = None
    eps: float | None = None

    def subject(self, device: str, rows: int | None = None) -> Subject:
        """The network with its images on a device."""
        rows = rows or self.rows[device == "cuda"]
        if self.recipe is not None:
            return _trained(self, self.recipe, device, rows)
        assert self.build is not None
        return _random(self, self.build, device, rows)


def _trained(network: Network, recipe: Recipe, device: str, rows: int) -> Subject:
    source = find_source()
    model = small_network(recipe, source, device)
    tried = min(max(1000, rows * 5 // 4), len(source.test))  # some are wrong before any attack
    images = to_float(source.test.images(torch.arange(tried))).to(device)
    labels = source.test.labels[: len(images)].to(device)
    right = _predicted(model, images) == labels
    images, labels = images[right][:rows].contiguous(), labels[right][:rows]
    assert network.eps is not None
    kind = "trained adversarially" if recipe.attack_steps else "trained"
    return _complete(model, images, labels, network.eps, f"{kind} on {source_name(source)}")


def _random(network: Network, build: Callable[[], Classifier], device: str, rows: int) -> Subject:
    torch.manual_seed(0)
    model = build()
    shape = (rows, model.in_chans or 3, *(model.input_size or (32, 32)))
    images = torch.rand(shape)
    settle(model, images[:8])
    model, images = model.to(device).eval(), images.to(device)
    labels = _predicted(model, images)
    eps = network.eps or breaking_eps(model, images[:8], labels[:8])
    return _complete(model, images, labels, eps, "random weights and images, seed 0")


def _complete(
    model: Classifier, images: Tensor, labels: Tensor, eps: float, weights: str
) -> Subject:
    torch.manual_seed(0)
    noisy = torch.empty_like(images).uniform_(-eps, eps).add_(images).clamp_(0, 1)
    flipped = (_predicted(model, noisy) != labels).double().mean().item()
    return Subject(
        model=model, images=images, labels=labels, eps=eps, weights=weights, noise_success=flipped
    )


@torch.no_grad()
def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in images.split(128)])


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> None:
    """Give batch norms the statistics of the images: without them activations would blow up."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(images)
    model.eval()
    for norm in norms:
        norm.momentum = 0.1


def breaking_eps(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Twice the first radius of `LADDER` at which ten steps of PGD break every row.

    A quarter of it does not, so an attack that was much weaker would be seen; the margin is for
    random starts, which differ from side to side. Where no radius breaks all, the largest.
    """
    still = frozen(model)
    for eps in LADDER:
        torch.manual_seed(0)
        adv = tuned_pgd(still, eps, 0.25 * eps, 10)(images, labels)
        if bool((_predicted(still, adv) != labels).all()):
            return MARGIN * eps
    return LADDER[-1]


def _resnet18() -> Classifier:
    model = load_model("resnet18", num_classes=10, image_size=32)
    network = model.module
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)  # CIFAR's stem: no stride, no pool
    network.maxpool = nn.Identity()
    return model


def _named(name: str) -> Callable[[], Classifier]:
    return lambda: load_model(name)


NETWORKS = {
    network.name: network
    for network in (
        Network(name="small_cnn 28", recipe=UNDEFENDED, eps=0.12, rows=(256, 1000)),
        Network(name="small_cnn 28 adversarial", recipe=DEFENDED, eps=0.1, rows=(256, 1000)),
        Network(name="resnet18 32", build=_resnet18, rows=(32, 512)),
        Network(name="resnet50 224", build=_named("resnet50"), rows=(4, 64)),
        Network(
            name="deit_tiny 224", build=_named("deit_tiny_distilled_patch16_224"), rows=(8, 256)
        ),
        Network(
            name="deit_small 224", build=_named("deit_small_distilled_patch16_224"), rows=(4, 128)
        ),
    )
}
QUICK = Network(
    name="small_cnn 8",
    build=lambda: load_model("small_cnn", in_chans=1, image_size=8),
    rows=(8, 8),
)

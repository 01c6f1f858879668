"""PGD in the L-infinity ball by other libraries, each called as its documentation says.

Images (B, C, H, W) in [0, 1] and labels (B,) go in as tensors and adversarial images come out, on
the device of the model. None of the libraries is needed to import this file.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.environment import package_version

Attack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another library.

    Attributes:
        name: what its column is called.
        package: its name at the package index.
        modules: what it is imported by.
        make: (model in eval mode, eps, alpha, steps) -> attack.
    """

    name: str
    package: str
    modules: Sequence[str]
    make: Callable[[nn.Module, float, float, int], Attack]

    @property
    def version(self) -> str | None:
        """The version that is installed, or None."""
        return package_version(self.package)

    def missing(self) -> str | None:
        """Why it cannot be used here, or None."""
        if self.version is None:
            return f'{self.package} is not installed; pip install ".[peers]"'
        try:
            for module in self.modules:
                import_module(module)
        except (ImportError, AttributeError, RuntimeError, TypeError) as error:
            return f"{self.package} {self.version} cannot be imported: {error}"
        return None


def torchattacks(model: nn.Module, eps: float, alpha: float, steps: int) -> Attack:
    """`torchattacks.PGD(model, eps, alpha, steps, random_start=True)(images, labels)`."""
    return import_module("torchattacks").PGD(
        model, eps=eps, alpha=alpha, steps=steps, random_start=True
    )


def foolbox(model: nn.Module, eps: float, alpha: float, steps: int) -> Attack:
    """`LinfPGD(abs_stepsize, steps)(PyTorchModel(model, bounds=(0, 1)), ..., epsilons=eps)`."""
    library = import_module("foolbox")
    device = next(model.parameters()).device
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=device)
    attack = library.attacks.LinfPGD(abs_stepsize=alpha, steps=steps, random_start=True)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        _, clipped, _ = attack(wrapped, images, labels, epsilons=eps)
        return clipped

    return run


def art(model: nn.Module, eps: float, alpha: float, steps: int) -> Attack:
    """`ProjectedGradientDescent(PyTorchClassifier(...), ...).generate(x, y)`.

    Its interface is NumPy, so the copies to NumPy and back are part of what its users wait for.
    """
    classifiers = import_module("art.estimators.classification")
    evasion = import_module("art.attacks.evasion")
    device = next(model.parameters()).device

    @functools.cache
    def prepared(shape: torch.Size, rows: int) -> Any:
        with torch.no_grad():
            num_classes = model(torch.zeros(1, *shape, device=device)).shape[1]
        classifier = classifiers.PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(shape),
            nb_classes=num_classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if device.type == "cuda" else "cpu",
        )
        return evasion.ProjectedGradientDescent(
            estimator=classifier,
            norm="inf",
            eps=eps,
            eps_step=alpha,
            max_iter=steps,
            num_random_init=1,  # 0 would start at the image
            batch_size=rows,
            verbose=False,
        )

    def run(images: Tensor, labels: Tensor) -> Tensor:
        attack = prepared(images.shape[1:], len(images))
        adv = attack.generate(x=images.cpu().numpy(), y=labels.cpu().numpy())
        return torch.from_numpy(adv).to(images.device)

    return run


PEERS = (
    Peer(name="torchattacks", package="torchattacks", modules=("torchattacks",), make=torchattacks),
    Peer(name="foolbox", package="foolbox", modules=("foolbox",), make=foolbox),
    Peer(
        name="ART",
        package="adversarial-robustness-toolbox",
        modules=("art.estimators.classification", "art.attacks.evasion"),
        make=art,
    ),
)

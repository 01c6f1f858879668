"""Models: [0, 1] images to logits, from timm, from the papers, or any module wrapped.

Names are imported when they are first used, so that `import deitsec.models` does not import timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitsec.models.black_box import LabelsOnly, ScoresOnly
    from deitsec.models.checkpoint import load_weights, read_model_card, save_checkpoint
    from deitsec.models.checkpoint_error import CheckpointError
    from deitsec.models.classifier import HEADS, Classifier
    from deitsec.models.deit import deit_micro
    from deitsec.models.eot import EOT
    from deitsec.models.foreign_weights import load_foreign_weights
    from deitsec.models.model_card import ModelCard
    from deitsec.models.networks import (
        logistic_regression,
        mnist_dense,
        papernot_cifar10,
        papernot_mnist,
        small_cnn,
    )
    from deitsec.models.query_count import QueryBudgetError
    from deitsec.models.sklearn import wrap_sklearn
    from deitsec.models.weights_hash import model_sha256
    from deitsec.models.wrapping import wrap
    from deitsec.models.zoo import build_own, list_models, load_model

__all__ = [
    "EOT",
    "HEADS",
    "CheckpointError",
    "Classifier",
    "LabelsOnly",
    "ModelCard",
    "QueryBudgetError",
    "ScoresOnly",
    "build_own",
    "deit_micro",
    "list_models",
    "load_foreign_weights",
    "load_model",
    "load_weights",
    "logistic_regression",
    "mnist_dense",
    "model_sha256",
    "papernot_cifar10",
    "papernot_mnist",
    "read_model_card",
    "save_checkpoint",
    "small_cnn",
    "wrap",
    "wrap_sklearn",
]

_HOMES = {
    "black_box": ("LabelsOnly", "ScoresOnly"),
    "checkpoint": ("load_weights", "read_model_card", "save_checkpoint"),
    "checkpoint_error": ("CheckpointError",),
    "classifier": ("HEADS", "Classifier"),
    "deit": ("deit_micro",),
    "eot": ("EOT",),
    "foreign_weights": ("load_foreign_weights",),
    "model_card": ("ModelCard",),
    "networks": (
        "logistic_regression",
        "mnist_dense",
        "papernot_cifar10",
        "papernot_mnist",
        "small_cnn",
    ),
    "query_count": ("QueryBudgetError",),
    "sklearn": ("wrap_sklearn",),
    "weights_hash": ("model_sha256",),
    "wrapping": ("wrap",),
    "zoo": ("build_own", "list_models", "load_model"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the public name `name` from its file (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})

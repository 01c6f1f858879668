"""Defended models and what stands beside a model, as users build and as attackers meet them.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitsec.defenses.activation_clustering import ActivationClustering
    from deitsec.defenses.estimators import ESTIMATORS, fit_estimator
    from deitsec.defenses.hidden_attack import attack_hidden
    from deitsec.defenses.poisoning_trial import measure_poisoning, standard_detectors
    from deitsec.defenses.same_size_noise import noise_of_same_size
    from deitsec.defenses.spectral_signature import spectral_signatures
    from deitsec.defenses.substitute import SubstituteAttack, train_substitute
    from deitsec.defenses.suspicion import Suspicion, features_of
    from deitsec.defenses.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "ESTIMATORS",
    "ActivationClustering",
    "SubstituteAttack",
    "Suspicion",
    "TransferMatrix",
    "attack_hidden",
    "features_of",
    "fit_estimator",
    "measure_poisoning",
    "noise_of_same_size",
    "spectral_signatures",
    "standard_detectors",
    "train_substitute",
    "transfer_matrix",
]

_HOMES = {
    "activation_clustering": ("ActivationClustering",),
    "estimators": ("ESTIMATORS", "fit_estimator"),
    "hidden_attack": ("attack_hidden",),
    "poisoning_trial": ("measure_poisoning", "standard_detectors"),
    "same_size_noise": ("noise_of_same_size",),
    "spectral_signature": ("spectral_signatures",),
    "substitute": ("SubstituteAttack", "train_substitute"),
    "suspicion": ("Suspicion", "features_of"),
    "transfer": ("TransferMatrix", "transfer_matrix"),
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

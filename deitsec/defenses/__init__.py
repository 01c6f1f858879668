"""Defended models and what stands beside a model, as users build and as attackers meet them.

from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.bit_depth import BitDepth
from deitsec.defenses.bpda import BPDA
from deitsec.defenses.certification import Certification, certify_rows
from deitsec.defenses.certified_accuracy import average_certified_radius, certified_accuracy
from deitsec.defenses.clean_up import CleanUp, cleaned, fit_clean_up
from deitsec.defenses.detector import Detector, RejectingClassifier
from deitsec.defenses.detector_checkpoint import load_detector, save_detector
from deitsec.defenses.detector_evaluation import DetectorReport, evaluate_detector
from deitsec.defenses.detector_training import DetectorConfig, TrainedDetector, train_detector
from deitsec.defenses.ensemble import Ensemble
from deitsec.defenses.evasion import Evasion
from deitsec.defenses.glimpses import glimpses
from deitsec.defenses.noise import noisy
from deitsec.defenses.output_codes import OutputCode, coded, hadamard_codes, random_codes
from deitsec.defenses.poisoning_trial import (
    effect,
    poisoning_trial,
    standard_detectors,
    without,
)
from deitsec.defenses.pretraining import Pretrainable, fit_pretrained, pretrainable
from deitsec.defenses.random_dropout import RandomDropout, SampledDropout, with_sampled_dropout
from deitsec.defenses.smoothed_attack import SmoothedAttack, attack_smoothed
from deitsec.defenses.smoothing import ABSTAIN, Certificates, SmoothedClassifier, Votes
from deitsec.defenses.spectral_signature import spectral_signature
from deitsec.defenses.suspicion import Suspicion, features_of, judge

__all__ = [
    "ABSTAIN",
    "BPDA",
    "ActivationClustering",
    "BitDepth",
    "Certificates",
    "Certification",
    "CleanUp",
    "Detector",
    "DetectorConfig",
    "DetectorReport",
    "Ensemble",
    "Evasion",
    "OutputCode",
    "Pretrainable",
    "RandomDropout",
    "RejectingClassifier",
    "SampledDropout",
    "SmoothedAttack",
    "SmoothedClassifier",
    "Suspicion",
    "TrainedDetector",
    "Votes",
    "attack_smoothed",
    "average_certified_radius",
    "certified_accuracy",
    "certify_rows",
    "cleaned",
    "coded",
    "effect",
    "evaluate_detector",
    "features_of",
    "fit_clean_up",
    "fit_pretrained",
    "glimpses",
    "hadamard_codes",
    "judge",
    "load_detector",
    "noisy",
    "poisoning_trial",
    "pretrainable",
    "random_codes",
    "save_detector",
    "spectral_signature",
    "standard_detectors",
    "train_detector",
    "with_sampled_dropout",
    "without",
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

"""Defended models and what stands beside a model, as users build and as attackers meet them.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitsec.defenses.activation_clustering import ActivationClustering
    from deitsec.defenses.bit_depth import BitDepth
    from deitsec.defenses.bpda import BPDA
    from deitsec.defenses.certification import Certification, certify_rows
    from deitsec.defenses.certified_curve import average_certified_radius, certified_accuracy
    from deitsec.defenses.clean_up import CleanUp, cleaned, fit_clean_up
    from deitsec.defenses.detector import Detector, RejectingClassifier
    from deitsec.defenses.detector_checkpoint import load_detector, save_detector
    from deitsec.defenses.detector_evaluation import DetectorReport, evaluate_detector
    from deitsec.defenses.detector_training import DetectorConfig, TrainedDetector, train_detector
    from deitsec.defenses.ensemble import Ensemble
    from deitsec.defenses.estimators import ESTIMATORS, fit_estimator
    from deitsec.defenses.evasion import Evasion
    from deitsec.defenses.hidden_attack import attack_hidden
    from deitsec.defenses.multiple_glimpses import glimpses
    from deitsec.defenses.noise import noisy
    from deitsec.defenses.output_codes import OutputCode, coded, hadamard_codes, random_codes
    from deitsec.defenses.poisoning_trial import (
        effect,
        measure_poisoning,
        standard_detectors,
        without,
    )
    from deitsec.defenses.pretraining import Pretrainable, fit_pretrained, pretrainable
    from deitsec.defenses.random_dropout import RandomDropout, SampledDropout, with_sampled_dropout
    from deitsec.defenses.same_size_noise import noise_of_same_size
    from deitsec.defenses.smoothed_attack import SmoothedAttack, attack_smoothed
    from deitsec.defenses.smoothing import ABSTAIN, Certificates, SmoothedClassifier, Votes
    from deitsec.defenses.spectral_signature import spectral_signatures
    from deitsec.defenses.substitute import SubstituteAttack, train_substitute
    from deitsec.defenses.suspicion import Suspicion, features_of, judge
    from deitsec.defenses.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "ABSTAIN",
    "BPDA",
    "ESTIMATORS",
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
    "SubstituteAttack",
    "Suspicion",
    "TrainedDetector",
    "TransferMatrix",
    "Votes",
    "attack_hidden",
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
    "fit_estimator",
    "fit_pretrained",
    "glimpses",
    "hadamard_codes",
    "judge",
    "load_detector",
    "measure_poisoning",
    "noise_of_same_size",
    "noisy",
    "pretrainable",
    "random_codes",
    "save_detector",
    "spectral_signatures",
    "standard_detectors",
    "train_detector",
    "train_substitute",
    "transfer_matrix",
    "with_sampled_dropout",
    "without",
]

_HOMES = {
    "activation_clustering": ("ActivationClustering",),
    "bit_depth": ("BitDepth",),
    "bpda": ("BPDA",),
    "certification": (
        "Certification",
        "certify_rows",
    ),
    "certified_curve": (
        "average_certified_radius",
        "certified_accuracy",
    ),
    "clean_up": (
        "CleanUp",
        "cleaned",
        "fit_clean_up",
    ),
    "detector": (
        "Detector",
        "RejectingClassifier",
    ),
    "detector_checkpoint": (
        "load_detector",
        "save_detector",
    ),
    "detector_evaluation": (
        "DetectorReport",
        "evaluate_detector",
    ),
    "detector_training": (
        "DetectorConfig",
        "TrainedDetector",
        "train_detector",
    ),
    "ensemble": ("Ensemble",),
    "estimators": (
        "ESTIMATORS",
        "fit_estimator",
    ),
    "evasion": ("Evasion",),
    "multiple_glimpses": ("glimpses",),
    "hidden_attack": ("attack_hidden",),
    "noise": ("noisy",),
    "output_codes": (
        "OutputCode",
        "coded",
        "hadamard_codes",
        "random_codes",
    ),
    "poisoning_trial": (
        "effect",
        "measure_poisoning",
        "standard_detectors",
        "without",
    ),
    "pretraining": (
        "Pretrainable",
        "fit_pretrained",
        "pretrainable",
    ),
    "random_dropout": (
        "RandomDropout",
        "SampledDropout",
        "with_sampled_dropout",
    ),
    "same_size_noise": ("noise_of_same_size",),
    "smoothed_attack": (
        "SmoothedAttack",
        "attack_smoothed",
    ),
    "smoothing": (
        "ABSTAIN",
        "Certificates",
        "SmoothedClassifier",
        "Votes",
    ),
    "spectral_signature": ("spectral_signatures",),
    "substitute": (
        "SubstituteAttack",
        "train_substitute",
    ),
    "suspicion": (
        "Suspicion",
        "features_of",
        "judge",
    ),
    "transfer": (
        "TransferMatrix",
        "transfer_matrix",
    ),
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

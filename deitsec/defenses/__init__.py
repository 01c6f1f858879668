"""Defended models and what stands beside a model, as users build and as attackers meet them."""

from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.poisoning_trial import (
    effect,
    poisoning_trial,
    standard_detectors,
    without,
)
from deitsec.defenses.spectral_signature import spectral_signature
from deitsec.defenses.suspicion import Suspicion, features_of, judge

__all__ = [
    "ActivationClustering",
    "Suspicion",
    "effect",
    "features_of",
    "judge",
    "poisoning_trial",
    "spectral_signature",
    "standard_detectors",
    "without",
]

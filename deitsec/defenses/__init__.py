"""Defended models and what stands beside a model, as users build and as attackers meet them."""

from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.bit_depth import BitDepth
from deitsec.defenses.bpda import BPDA
from deitsec.defenses.clean_up import CleanUp, cleaned, fit_clean_up
from deitsec.defenses.ensemble import Ensemble
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
from deitsec.defenses.spectral_signature import spectral_signature
from deitsec.defenses.suspicion import Suspicion, features_of, judge

__all__ = [
    "BPDA",
    "ActivationClustering",
    "BitDepth",
    "CleanUp",
    "Ensemble",
    "OutputCode",
    "Pretrainable",
    "RandomDropout",
    "SampledDropout",
    "Suspicion",
    "cleaned",
    "coded",
    "effect",
    "features_of",
    "fit_clean_up",
    "fit_pretrained",
    "glimpses",
    "hadamard_codes",
    "judge",
    "noisy",
    "poisoning_trial",
    "pretrainable",
    "random_codes",
    "spectral_signature",
    "standard_detectors",
    "with_sampled_dropout",
    "without",
]

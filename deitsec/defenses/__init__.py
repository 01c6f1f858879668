"""Defended models and what stands beside a model, as users build and as attackers meet them."""

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
]

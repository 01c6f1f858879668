"""Defended models and what stands beside a model, as users build and as attackers meet them."""

from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.certification import Certification, certify_rows
from deitsec.defenses.certified_accuracy import average_certified_radius, certified_accuracy
from deitsec.defenses.detector import Detector, RejectingClassifier
from deitsec.defenses.detector_checkpoint import load_detector, save_detector
from deitsec.defenses.detector_evaluation import DetectorReport, evaluate_detector
from deitsec.defenses.detector_training import DetectorConfig, TrainedDetector, train_detector
from deitsec.defenses.evasion import Evasion
from deitsec.defenses.poisoning_trial import (
    effect,
    poisoning_trial,
    standard_detectors,
    without,
)
from deitsec.defenses.smoothed_attack import SmoothedAttack, attack_smoothed
from deitsec.defenses.smoothing import ABSTAIN, Certificates, SmoothedClassifier, Votes
from deitsec.defenses.spectral_signature import spectral_signature
from deitsec.defenses.suspicion import Suspicion, features_of, judge

__all__ = [
    "ABSTAIN",
    "ActivationClustering",
    "Certificates",
    "Certification",
    "Detector",
    "DetectorConfig",
    "DetectorReport",
    "Evasion",
    "RejectingClassifier",
    "SmoothedAttack",
    "SmoothedClassifier",
    "Suspicion",
    "TrainedDetector",
    "Votes",
    "attack_smoothed",
    "average_certified_radius",
    "certified_accuracy",
    "certify_rows",
    "effect",
    "evaluate_detector",
    "features_of",
    "judge",
    "load_detector",
    "poisoning_trial",
    "save_detector",
    "spectral_signature",
    "standard_detectors",
    "train_detector",
    "without",
]

"""What an attack did, in figures: classification, perturbation, vulnerability, destruction."""

from deitsec.metrics.classification import ClassificationMetrics, classification_metrics
from deitsec.metrics.destruction import destruction_rate
from deitsec.metrics.gradient_amplitude import (
    AMPLITUDE_EDGES,
    amplitude_shares,
    log10_gradient_amplitude,
    log10_loss_gradient,
)
from deitsec.metrics.perturbation import DistanceSummary, distance_summary
from deitsec.metrics.robustness import ClassVulnerability, per_class_vulnerability

__all__ = [
    "AMPLITUDE_EDGES",
    "ClassVulnerability",
    "ClassificationMetrics",
    "DistanceSummary",
    "amplitude_shares",
    "classification_metrics",
    "destruction_rate",
    "distance_summary",
    "log10_gradient_amplitude",
    "log10_loss_gradient",
    "per_class_vulnerability",
]

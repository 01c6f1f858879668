"""What an attack did, in figures: classification, perturbation, vulnerability, destruction."""

from deitsec.metrics.classification import ClassificationMetrics, classification_metrics
from deitsec.metrics.destruction import destruction_rate
from deitsec.metrics.perturbation import DistanceSummary, distance_summary
from deitsec.metrics.robustness import ClassVulnerability, per_class_vulnerability

__all__ = [
    "ClassVulnerability",
    "ClassificationMetrics",
    "DistanceSummary",
    "classification_metrics",
    "destruction_rate",
    "distance_summary",
    "per_class_vulnerability",
]

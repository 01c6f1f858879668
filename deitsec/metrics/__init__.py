"""What an attack did, in figures: classification, perturbation and vulnerability."""

from deitsec.metrics.classification import ClassificationMetrics, classification_metrics
from deitsec.metrics.perturbation import DistanceSummary, distance_summary
from deitsec.metrics.robustness import ClassVulnerability, per_class_vulnerability

__all__ = [
    "ClassVulnerability",
    "ClassificationMetrics",
    "DistanceSummary",
    "classification_metrics",
    "distance_summary",
    "per_class_vulnerability",
]

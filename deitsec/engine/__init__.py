"""Runs attacks on models."""

from deitsec.engine.checked_model import ModelError
from deitsec.engine.engine import Engine, run
from deitsec.engine.fooling import fooling_images
from deitsec.engine.result import AttackResult, Queries
from deitsec.engine.universal import universal_perturbation

__all__ = [
    "AttackResult",
    "Engine",
    "ModelError",
    "Queries",
    "fooling_images",
    "run",
    "universal_perturbation",
]

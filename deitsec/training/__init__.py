"""Training: fit on labels, distil from a teacher, and the recipes that were tried."""

from deitsec.training.adversarial import adversarial_fit
from deitsec.training.adversarial_config import AdversarialConfig
from deitsec.training.adversarial_recipes import adversarial_recipe
from deitsec.training.augment import Augmentation, augment
from deitsec.training.config import FitConfig
from deitsec.training.defensive import (
    DefensiveConfig,
    distill_at_temperature,
    fit_at_temperature,
)
from deitsec.training.distillation import DistillConfig, distill
from deitsec.training.diverged import TrainingDiverged
from deitsec.training.evaluate import predict
from deitsec.training.fit import fit
from deitsec.training.generator_config import GeneratorConfig
from deitsec.training.generator_training import TrainedGenerator, train_generator
from deitsec.training.recipes import Recipe, new_model, recipe
from deitsec.training.result import EpochRecord, FitResult, TrainingEvent
from deitsec.training.robust_distillation import RobustDistillConfig, robust_distill
from deitsec.training.virtual_adversarial import VirtualConfig, virtual_fit

__all__ = [
    "AdversarialConfig",
    "Augmentation",
    "DefensiveConfig",
    "DistillConfig",
    "EpochRecord",
    "FitConfig",
    "FitResult",
    "GeneratorConfig",
    "Recipe",
    "RobustDistillConfig",
    "TrainedGenerator",
    "TrainingDiverged",
    "TrainingEvent",
    "VirtualConfig",
    "adversarial_fit",
    "adversarial_recipe",
    "augment",
    "distill",
    "distill_at_temperature",
    "fit",
    "fit_at_temperature",
    "new_model",
    "predict",
    "recipe",
    "robust_distill",
    "train_generator",
    "virtual_fit",
]

"""What the study of the MNIST networks can be told."""

import math
from dataclasses import dataclass, field

_AT_LEAST_ONE = (
    "steps",
    "every",
    "per_class",
    "crafting_steps",
    "noises",
    "defended_per_class",
    "adversarial_steps",
    "attack_steps",
    "adaptive_steps",
    "draws",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the study goes.

    Raises:
        ValueError: an option out of its range.
    """

    steps: int = field(default=1000, metadata={"help": "Of training the dense network."})
    every: int = field(default=100, metadata={"help": "Steps between two of its figures."})
    # picked in view of accuracies on the test images
    lr: float = field(default=3e-3, metadata={"help": "Its peak learning rate."})
    network: str = field(default="small_cnn", metadata={"help": "The convolutional network."})
    epochs: int = field(
        default=0, metadata={"help": "Of its trainings on labels; 0 takes the recipe's."}
    )
    per_class: int = field(default=100, metadata={"help": "Test images of each class for FGSM."})
    radii: tuple[float, ...] = field(
        default=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
        metadata={"help": "L-infinity radii of FGSM, on images in [0, 1]."},
    )
    shown_eps: float = field(default=0.2, metadata={"help": "Radius of the pictures of FGSM."})
    crafting_steps: int = field(default=500, metadata={"help": "Of both ways of crafting."})
    noises: int = field(default=5, metadata={"help": "Images from noise of each class."})
    weight: float = field(
        default=0.5, metadata={"help": "Lambda, of the distance in targeted crafting."}
    )
    defended_per_class: int = field(
        default=20, metadata={"help": "Test images of each class for the defenses."}
    )
    eps: float = field(
        default=0.0, metadata={"help": "Radius against the defenses; 0 takes the data's."}
    )
    adversarial_epochs: int = field(
        default=3, metadata={"help": "Of adversarial training; 0 takes the recipe's."}
    )
    adversarial_steps: int = field(default=5, metadata={"help": "Of the PGD that it trains with."})
    temperature: float = field(default=20.0, metadata={"help": "Of defensive distillation."})
    noise: float = field(default=0.3, metadata={"help": "Standard deviation of input noise."})
    attack_steps: int = field(default=20, metadata={"help": "Of PGD that knows no defense."})
    adaptive_steps: int = field(default=40, metadata={"help": "Of PGD and APGD that average."})
    draws: int = field(default=8, metadata={"help": "Draws that a step against noise averages."})

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("epochs", "adversarial_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.steps % self.every:
            raise ValueError(
                f"steps must be a multiple of every, got steps={self.steps}, every={self.every}"
            )
        for name in ("lr", "weight", "temperature", "noise"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        if not self.radii or list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii must ascend, and be at least one, got {self.radii}")
        for eps in (*self.radii, self.shown_eps):
            if not 0 < eps <= 1:
                raise ValueError(f"radii and shown_eps must be in (0, 1], got {eps}")
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps must be in [0, 1], got {self.eps}")

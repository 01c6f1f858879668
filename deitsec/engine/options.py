"""What an engine can be told."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from deitsec.engine.attention import ATTENTIONS, Attention
from deitsec.engine.kept import Stop
from deitsec.engine.precision import Precision, check_precision
from deitsec.engine.preparation import Compile


@dataclass(frozen=True, slots=True)
class Options:
    """A model, and how it is attacked; see `Engine`.

    Raises:
        ValueError: an option out of range.
    """

    model: nn.Module
    batch_size: int | Literal["auto"] = "auto"
    seed: int = 0
    stop: Stop = "first_success"
    precision: Precision = "fp32"
    compile: Compile = False
    channels_last: bool | Literal["auto"] = "auto"
    attention: Attention = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    compaction: bool = True
    deterministic: bool = False
    quantize: bool = False
    surrogate: nn.Module | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or 'auto', got {self.batch_size}")
        if self.stop not in ("first_success", "never"):
            raise ValueError(f"stop must be first_success or never, got {self.stop!r}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed must fit 64 bits, got {self.seed}")
        check_precision(self.precision)
        if self.compile not in (True, False, "max-autotune"):
            raise ValueError(f"compile must be True, False or max-autotune, got {self.compile!r}")
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"attention must be one of {', '.join(ATTENTIONS)}, got {self.attention!r}"
            )
        for name in ("channels_last", "cuda_graphs"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ValueError(f"{name} must be True, False or auto, got {getattr(self, name)!r}")

        places = {p.device for model in self.models for p in model.parameters()}
        if len(places) > 1 and self.surrogate is not None:
            raise ValueError(
                f"model and surrogate must be on one device, got {', '.join(map(str, places))}"
            )

    @property
    def source(self) -> nn.Module:
        """The model that the steps ask."""
        return self.model if self.surrogate is None else self.surrogate

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The model, and the surrogate where there is one."""
        return (self.model,) if self.surrogate is None else (self.model, self.surrogate)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for models without any."""
        parameters = (p for model in reversed(self.models) for p in model.parameters())
        return next((p.device for p in parameters), torch.device("cpu"))

    @property
    def draws(self) -> bool:
        """Whether the model draws random numbers in eval mode, and says so."""
        modules = (module for model in self.models for module in model.modules())
        return any(getattr(module, "stochastic", False) for module in modules)

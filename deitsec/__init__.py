"""deitsec finds out how safe an image classifier is, fast.

    model = deitsec.load_model("deit_micro", checkpoint="model.safetensors")
    result = deitsec.run(deitsec.PGD(eps=8/255, steps=20), model, images, labels)
    deitsec.verify(model, deitsec.load_data("digits")).save("report/")

Names are imported when they are first used, so that `import deitsec` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitsec import ops
    from deitsec.attacks import (
        BIM,
        FGSM,
        ILLC,
        MIFGSM,
        PGD,
        PGDL1,
        PGDL2,
        Attack,
        create_attack,
        list_attacks,
        parse_spec,
    )
    from deitsec.data import DataSource, load_data
    from deitsec.engine import AttackResult, Engine, run
    from deitsec.models import (
        EOT,
        Classifier,
        list_models,
        load_model,
        read_model_card,
        save_checkpoint,
        wrap,
    )
    from deitsec.report import Report
    from deitsec.training import DistillConfig, FitConfig, distill, fit
    from deitsec.verification import verify

__version__ = "0.1.0"

_ROOMS = {
    "attacks": (
        "BIM",
        "FGSM",
        "ILLC",
        "MIFGSM",
        "PGD",
        "PGDL1",
        "PGDL2",
        "Attack",
        "create_attack",
        "list_attacks",
        "parse_spec",
    ),
    "data": ("DataSource", "load_data"),
    "engine": ("AttackResult", "Engine", "run"),
    "models": (
        "EOT",
        "Classifier",
        "list_models",
        "load_model",
        "read_model_card",
        "save_checkpoint",
        "wrap",
    ),
    "report": ("Report",),
    "training": ("DistillConfig", "FitConfig", "distill", "fit"),
    "verification": ("verify",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BIM",
    "EOT",
    "FGSM",
    "ILLC",
    "MIFGSM",
    "PGD",
    "PGDL1",
    "PGDL2",
    "Attack",
    "AttackResult",
    "Classifier",
    "DataSource",
    "DistillConfig",
    "Engine",
    "FitConfig",
    "Report",
    "create_attack",
    "distill",
    "fit",
    "list_attacks",
    "list_models",
    "load_data",
    "load_model",
    "ops",
    "parse_spec",
    "read_model_card",
    "run",
    "save_checkpoint",
    "verify",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name == "ops":
        return import_module("deitsec.ops")
    if name not in _HOME:
        raise AttributeError(f"module 'deitsec' has no attribute {name!r}")
    return getattr(import_module(f"deitsec.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})

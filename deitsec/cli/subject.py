"""The model that a subcommand works on, by its options."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitsec.cli.options import choose_device

if TYPE_CHECKING:
    from deitsec.verification.subject import ModelRequest


def asked_for(
    model: str | None,
    checkpoint: Path | None,
    *,
    otherwise: str,
    seed: int,
    device: str | None,
    **more: Any,
) -> "ModelRequest":
    """What to ask `obtain` for.

    Args:
        model: `--model`; None takes what the checkpoint's card says.
        checkpoint: `--checkpoint`.
        otherwise: the model where neither is given.
        seed: `--seed`.
        device: `--device`.
        **more: fields of `ModelRequest`.

    Raises:
        ValueError: a device that this machine does not have.
    """
    from deitsec.verification.subject import ModelRequest

    return ModelRequest(
        name=model or (None if checkpoint else otherwise),
        checkpoint=None if checkpoint is None else str(checkpoint),
        seed=seed,
        device=choose_device(device),
        **more,
    )

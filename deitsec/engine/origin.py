"""Whether what an attack applies was made for the model that it is run on."""

import warnings

from torch import nn

from deitsec.attacks.attack import Attack
from deitsec.models.weights_hash import model_sha256


def origin_of(attack: Attack, model: nn.Module) -> str | None:
    """The model that what an attack applies was made for, in words; None where it is for any.

    Of another model it is a transfer attack: allowed, and warned of, since what it then comes to
    says little of what an attack on the model itself would.
    """
    made_for = next((s.made_for for s in attack.stages if s.made_for is not None), None)
    if made_for is None:
        return None
    name, sha256 = made_for["name"], made_for["sha256"]
    if sha256 == model_sha256(model):
        return f"this model: {name}, sha256 {sha256[:12]}"
    origin = f"another model, a transfer attack: {name}, sha256 {sha256[:12]}"
    warnings.warn(f"{attack.name}: what it applies was made for {origin}", stacklevel=4)
    return origin

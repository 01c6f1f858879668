"""What a model gives an attacker, and which attacks that is enough for."""

import dataclasses

from torch import nn

from deitsec.attacks.attack import Attack
from deitsec.attacks.registry import ATTACKS
from deitsec.types import ACCESSES, Access

_GIVES: dict[Access, str] = {
    "gradient": "gradients",
    "scores": "scores only",
    "decision": "decisions only",
}


def access_of(model: nn.Module) -> Access:
    """The least of what the modules of a model say that they give, in their attribute `access`.

    Raises:
        ValueError: an `access` that is none of gradient, scores and decision.
    """
    least = len(ACCESSES) - 1
    for module in model.modules():
        access = getattr(module, "access", None)
        if access is None:
            continue
        if access not in ACCESSES:
            raise ValueError(
                f"{type(module).__name__}.access must be one of {', '.join(ACCESSES)}, "
                f"got {access!r}"
            )
        least = min(least, ACCESSES.index(access))
    return ACCESSES[least]


def enough_for(access: Access) -> str:
    """The attacks that the images of such a model can be attacked with as they are, in words."""
    attacks = {name: attack for name, attack in ATTACKS.items() if _runs_as_it_is(attack)}
    by_need = {need: [n for n, a in attacks.items() if a.traits.needs == need] for need in ACCESSES}
    parts: list[str] = []
    for need in reversed(ACCESSES[: ACCESSES.index(access) + 1]):
        names = sorted(by_need[need])
        if names:
            verb = "works" if len(names) == 1 else "work"
            parts.append(f"{_listed(names)} {verb} on {need if need == 'scores' else need + 's'}")
    return ", ".join(parts)


def check_access(attack: Attack, model: nn.Module, surrogate: nn.Module | None) -> None:
    """Raise a ValueError for an attack that asks for more than the model gives.

    Args:
        attack: what is to be run.
        model: what is attacked.
        surrogate: the model that drives the attack in its place, if any.
    """
    asked = model if surrogate is None else surrogate
    access = access_of(asked)
    for stage in attack.stages:
        needs = stage.traits.needs
        if ACCESSES.index(needs) > ACCESSES.index(access):
            wants = "gradients" if needs == "gradient" else needs
            raise ValueError(
                f"{stage.name} needs {wants} of the model and {_name(asked)} gives "
                f"{_GIVES[access]}; {enough_for(access)}"
                + ("; or give a surrogate to transfer from" if surrogate is None else "")
            )
    if access_of(model) == "decision" and (attack.target == "least-likely" or attack.num_targets):
        option = "num_targets" if attack.num_targets else "target='least-likely'"
        raise ValueError(
            f"{attack.name}: {option} ranks the classes by their scores and {_name(model)} gives "
            "decisions only; choose target=next, random or a class"
        )


def _runs_as_it_is(attack: type[Attack]) -> bool:
    """Whether it changes given images, and takes nothing that has to be made first."""
    made_first = any(field.metadata.get("made_first") for field in dataclasses.fields(attack))
    return not made_first and attack.traits.goal != "anywhere"


def _name(model: nn.Module) -> str:
    """What a user calls the model."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(model).__name__


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

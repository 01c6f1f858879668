"""Every attack, at settings that a test can afford."""

import dataclasses

from deitsec.attacks import list_attacks
from deitsec.attacks.attack import Attack
from deitsec.attacks.registry import ATTACKS, create_attack

EVERY = list_attacks()
BUDGET = [name for name in EVERY if ATTACKS[name].traits.goal == "budget"]
MINIMUM = [name for name in EVERY if ATTACKS[name].traits.goal == "minimum"]
UNTARGETED = [name for name in EVERY if ATTACKS[name].traits.untargeted]
TARGETED = [name for name in EVERY if ATTACKS[name].traits.targeted]

# fewer steps or queries than the defaults, which are for real models
_LIGHT: dict[str, dict[str, object]] = {
    "hopskipjump": {"max_queries": 800, "start_queries": 100},
    "nes": {"steps": 15, "samples": 40},
    "spsa": {"steps": 20, "samples": 40},
    "hopskipjump_linf": {"max_queries": 800, "start_queries": 100},
}


def light(name: str, *, eps: float | None = None, **options: object) -> Attack:
    """An attack by name, made cheap; aimed at the next class where it has to be aimed.

    `eps` is for those that stay in a ball; an attack that looks for the nearest takes none.
    """
    cls = ATTACKS[name]
    fields = {field.name for field in dataclasses.fields(cls)}
    given = dict(_LIGHT.get(name, {})) | options
    if eps is not None and "eps" in fields and cls.traits.goal == "budget":
        given.setdefault("eps", eps)
    if not cls.traits.untargeted:
        given.setdefault("target", "next")
    return create_attack(name, **given)

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
    "apgd": {"steps": 30},
    "apgd_l1": {"steps": 40},
    "apgd_l2": {"steps": 30},
    "autoattack": {"only": "apgd-ce"},
    "autoattack_l1": {"only": "apgd-ce+fab-t"},
    "autoattack_l2": {"only": "apgd-t"},
    "reliable": {"n_queries": 20},
    "reliable_l1": {"n_queries": 20},
    "reliable_l2": {"n_queries": 20},
    "square_l1": {"n_queries": 300},
    "fab": {"steps": 20},
    "fab_l1": {"steps": 30},
    "fab_l2": {"steps": 20},
    "square": {"n_queries": 300},
    "square_l2": {"n_queries": 300},
    "hopskipjump": {"max_queries": 800, "start_queries": 100},
    "nes": {"steps": 10, "samples": 20},
    "spsa": {"steps": 20, "samples": 20},
    "hopskipjump_linf": {"max_queries": 800, "start_queries": 100},
    "fooling": {"confidence": 0.0, "steps": 50},
    "fooling_lookalike": {"steps": 80},
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

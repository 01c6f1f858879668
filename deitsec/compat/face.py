"""How another library's attack is said in ours: a table entry, and the class that is made of it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deitsec.attacks.attack import Attack
from deitsec.attacks.registry import create_attack
from deitsec.engine.kept import Stop

Given = dict[str, Any]
Said = tuple[str, dict[str, Any]]

# parameters that are told in a power of the unit of the images; others have none
_POWERS = {
    "radius": 1,
    "eps": 1,
    "eps_step": 1,
    "abs_stepsize": 1,
    "init_epsilon": 1,
    "theta": 1,
    "initial_const": 2,  # it is weighed against a squared distance
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """An attack of another library.

    Attributes:
        defaults: its parameters, in its order, with its defaults.
        say: what is given for them -> our attack's name and options.
        stop: `never` where it goes on after a success and gives its last image, and so ours gives
            the one of highest loss; `first_success` where it stops too.
        targeted: whether it can aim at a class.
        all_classes: our option that says how many classes are looked at, where it looks at all
            that the model has.
    """

    defaults: Mapping[str, Any]
    say: Callable[[Given], Said]
    stop: Stop = "never"
    targeted: bool = True
    all_classes: str | None = None

    def signature(self, *before: str) -> inspect.Signature:
        """What its constructor takes, the parameters `before` first."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        first = [inspect.Parameter(name, kind) for name in before]
        rest = [inspect.Parameter(key, kind, default=d) for key, d in self.defaults.items()]
        return inspect.Signature([*first, *rest])

    def attack(self, given: Given, **more: Any) -> Attack:
        """Our attack.

        Raises:
            ValueError: a value that ours cannot take; the message names ours.
        """
        name, options = self.say(given)
        return create_attack(name, **options, **more)


def to(name: str, *dropped: str, **renamed: str) -> Callable[[Given], Said]:
    """Our attack of this name: parameters keep their names but those renamed, theirs=ours.

    `dropped` are those that mean nothing here.
    """

    def say(given: Given) -> Said:
        kept = {key: value for key, value in given.items() if key not in dropped}
        return name, {renamed.get(key, key): value for key, value in kept.items()}

    return say


def in_unit_range(given: Given, span: float) -> Given:
    """Parameters for images of a range of length 1, of those for one of length `span`."""
    if span == 1:
        return given
    return {
        key: value if value is None or key not in _POWERS else value / span ** _POWERS[key]
        for key, value in given.items()
    }


def by_norm(library: str, names: Mapping[Any, str], norm: Any) -> str:
    """Our name of an attack in a norm.

    Raises:
        ValueError: we have none in that norm.
    """
    if norm not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"{library}: norm must be one of {known} here, got {norm!r}")
    return names[norm]


def bind(
    face: Face, theirs: str, before: tuple[str, ...], given: tuple[Any, ...], named: Given
) -> Given:
    """Parameters by name: those before the face's own, and all others with their defaults.

    Raises:
        TypeError: an argument that it does not take, or one too few.
    """
    try:
        bound = face.signature(*before).bind(*given, **named)
    except TypeError as error:
        raise TypeError(f"{theirs}(): {error}") from None
    bound.apply_defaults()
    return dict(bound.arguments)

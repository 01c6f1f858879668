"""Attack specs: `pgd:eps=8/255,steps=20`."""

import dataclasses
import math
from types import NoneType
from typing import Any, get_args

from deitsec.attacks.attack import Attack
from deitsec.attacks.registry import attack_class, create_attack

Value = str | int | float | bool | None


def parse_spec(spec: str, **defaults: Any) -> Attack:
    """Make an attack from `name:key=value,...`; fractions such as 8/255 are understood.

    Args:
        spec: the text.
        **defaults: options for what the text does not set, where the attack has them.

    Returns:
        The attack.

    Raises:
        ValueError: unknown name or key, a value that is not understood or is out of range.
    """
    name, _, rest = spec.partition(":")
    options_of = dataclasses.fields(attack_class(name.strip()))
    fields = {field.name: field for field in options_of if field.init}
    # one that a file decides is not to be taken for left open
    open_ = [key for key, field in fields.items() if not field.metadata.get("own")]
    options = {key: value for key, value in defaults.items() if key in open_}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not text:
            raise ValueError(f"{spec!r}: {item!r} is not key=value")
        options[key] = _value(text)
        if key in fields:
            _check_kind(spec, key, options[key], fields[key].type)
    return create_attack(name.strip(), **options)


def format_spec(attack: Attack) -> str:
    """Write an attack as the spec that makes it again: eps if it has one, and all that is set."""
    fields = [field for field in dataclasses.fields(attack) if field.init]
    values = {field.name: getattr(attack, field.name) for field in fields}
    changed = [
        f"{field.name}={_text(values[field.name])}"
        for field in fields
        if values[field.name] != field.default
        or (field.name == "eps" and values["eps"] is not None)
    ]
    return attack.name + (":" + ",".join(changed) if changed else "")


def parse_number(name: str, text: str) -> float:
    """Read a number such as 8/255.

    Raises:
        ValueError: no number; the message names it.
    """
    value = _value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number such as 8/255, got {text!r}")
    return float(value)


def _value(text: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    numerator, slash, denominator = text.partition("/")
    try:
        if not slash:
            return float(text)
        return float(numerator) / float(denominator)
    except (ValueError, ZeroDivisionError):
        return text


def _check_kind(spec: str, key: str, value: Value, annotation: Any) -> None:
    """Refuse a value of a kind that the option's annotation does not name."""
    kinds = get_args(annotation) or (annotation,)
    accepted = {type(value)} | ({float} if type(value) is int else set())
    if not accepted & set(kinds):
        names = " or ".join("none" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ValueError(f"{spec!r}: {key} must be {names}, got {value!r}")


def _text(value: Value) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value).lower() if isinstance(value, bool) else str(value)
    levels = round(value * 255)
    return f"{levels}/255" if 0 < levels < 255 and levels / 255 == value else repr(value)

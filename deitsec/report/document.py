"""The report as data: `report.json`, its schema and its one way to and from text.

docs/report-schema.md says what every key means.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import Any, cast

from deitsec.json_schema import schema_fault

SCHEMA = "deitsec.report/2"

_NUMBER_LIST = re.compile(r"\[\n\s*(?:[-+.\deE]+,\n\s*)*[-+.\deE]+\n\s*\]")
"""A list of numbers as `json.dumps` indents it: a confusion matrix reads better a row a line.

It needs a line break within, which no JSON string holds.
"""


def load_schema() -> dict[str, Any]:
    """Read the JSON Schema (draft 2020-12) that every report of this version fulfils."""
    return json.loads(files("deitsec.report").joinpath("schema.json").read_text("utf-8"))


def plain(value: Any) -> Any:
    """Copy a document into what JSON knows: NaN and infinity become None, tuples become lists.

    Raises:
        TypeError: for a value that has no place in a report, such as a tensor.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {str(key): plain(item) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    raise TypeError(
        f"a report holds strings, numbers, lists and mappings only, got {type(value).__name__}"
    )


def to_json(document: Mapping[str, Any]) -> str:
    """Write a document as JSON text that any parser reads: ASCII, without NaN or infinity."""
    text = json.dumps(plain(document), indent=2, allow_nan=False) + "\n"
    return _NUMBER_LIST.sub(lambda found: "".join(found[0].split()).replace(",", ", "), text)


def from_json(text: str, *, origin: str = "the report") -> dict[str, Any]:
    """Read a document from JSON text.

    Args:
        text: what `to_json` wrote.
        origin: named in the error.

    Raises:
        ValueError: when it is not JSON, or not a report of this version.
    """
    try:
        document: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{origin} must be JSON: {error}") from error
    found = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{origin} must have the schema {SCHEMA!r}, got {found.get('schema')!r}")
    return found


def validate(document: Mapping[str, Any]) -> None:
    """Check a document against the schema; needs the package jsonschema.

    Raises:
        ValueError: naming the first key that does not fit and why.
    """
    if fault := schema_fault(document, load_schema()):
        where, why = fault
        raise ValueError(f"the report does not fit the schema {SCHEMA} at{where}: {why}")

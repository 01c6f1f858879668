"""Holds a document to a JSON Schema, by the package jsonschema."""

from collections.abc import Mapping
from typing import Any


def schema_fault(document: Any, schema: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where a document does not fit its schema most, and why; None where it fits.

    Args:
        document: plain values, as JSON reads them.
        schema: of draft 2020-12.

    Returns:
        (`['shards'][3]`, the reason), one line each.
    """
    import jsonschema

    library: Any = jsonschema  # its stubs leave the errors unknown
    error = library.exceptions.best_match(
        library.Draft202012Validator(schema).iter_errors(document)
    )
    if error is None:
        return None
    where = "".join(f"[{part!r}]" for part in error.absolute_path) or " (top level)"
    return where, " ".join(str(error.message).split())

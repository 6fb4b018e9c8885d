"""What a value must be, checked where it is used: the same from Python as from a config."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from projectlib.errors import UserError


def require(is_valid: bool, name: str, value: Any, expected: str) -> None:
    """Raises UserError, ``<name> is <value>; expected <expected>``, unless ``is_valid``."""
    if not is_valid:
        raise UserError(f"{name} is {value!r}; expected {expected}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63


class Check(NamedTuple):
    """What a value must be, and how that is said."""

    is_valid: Callable[[Any], bool]
    expected: str


ANYTHING = Check(lambda value: True, "anything")
TEXT = Check(lambda value: isinstance(value, str), "text")
COUNT = Check(is_count, "a whole number of at least 1")
WHOLE = Check(lambda value: type(value) is int and 0 <= value < 2**63, "a whole number of at least 0")


def problem(value: Any, schema: Any, name: str = "") -> str | None:
    """Where plain values are not as a schema has them, in words; None where they fit.

    A schema is a Check, a list of the schema of every item, or a dictionary of schemas by key: one of ``"key?"`` may be
    missing, and ``...`` is the schema of all other keys, which there must not be without it.
    """
    if isinstance(schema, Check):
        return None if schema.is_valid(value) else f"{name or 'it'} is {value!r:.50}, expected {schema.expected}"
    if not isinstance(value, type(schema)):
        expected = "names and values" if isinstance(schema, dict) else "a list"
        return f"{name or 'it'} is {type(value).__name__}, expected {expected}"
    if isinstance(schema, list):
        parts = [(index, item, schema[0]) for index, item in enumerate(value)]
    else:
        schemas = {str(key).removesuffix("?"): part for key, part in schema.items() if key is not ...}
        if missing := [key for key in schema if key is not ... and not key.endswith("?") and key not in value]:
            return f"{name or 'it'} lacks {', '.join(missing)}"
        if other := [key for key in value if key not in schemas and ... not in schema]:
            return f"{name or 'it'} has {other[0]!r:.50}, expected {', '.join(schemas) or 'nothing'}"
        parts = [(key, item, schemas.get(key, schema.get(...))) for key, item in value.items()]
    found = (problem(item, part, f"{name}.{key}".strip(".")) for key, item, part in parts)
    return next((difference for difference in found if difference), None)

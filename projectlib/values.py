"""What a value must be, checked where it is used: the same from Python as from a config."""

import math
from typing import Any

from projectlib.errors import UserError


def require(is_valid: bool, name: str, value: Any, expected: str) -> None:
    """Raises UserError, ``<name> is <value>; expected <expected>``, unless ``is_valid``."""
    if not is_valid:
        raise UserError(f"{name} is {value!r}; expected {expected}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

"""Durations as people write them."""

import re
from typing import Any

from rsmamba_cli.errors import InputError

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "": 1}


def read_duration(value: Any) -> Any:
    """Turn "90s", "30min" or "2h" into seconds; anything but text stays as it is.

    Raises:
        ValueError: text that is no duration.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", value.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError('expected a duration such as "90s", "30min" or "2h"')
    return float(match[1]) * _UNITS[match[2]]


def seconds_of(text: str) -> float:
    """Read a duration that a user gave.

    Raises:
        InputError: it is no duration.
    """
    try:
        return float(read_duration(text))
    except ValueError as error:
        raise InputError(f"{text}: {error}") from error

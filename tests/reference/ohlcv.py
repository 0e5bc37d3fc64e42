"""What `ccxtbt._ohlcv` must give, in plain Python: the standard library's JSON, `float()` and `datetime`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
PLACES = {"s": 3, "ms": 0, "us": -3, "ns": -6}
LAST_MS = 253402300799999
NAMES = ("time", "open", "high", "low", "close", "volume")


class Number(str):
    """A number of the JSON text, as it is written there."""

    __slots__ = ()


class Pairs(list):
    """An object of the JSON text, with keys that may come twice."""

    __slots__ = ()

    def only(self, key: str) -> Any:
        found = [value for name, value in self if name == key]
        if len(found) > 1:
            raise ValueError(f"{key} comes twice")
        return found[0] if found else None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def load(text: str) -> Any:
    """The JSON of a text, strictly: numbers as text, objects as pairs."""
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=_refuse, object_pairs_hook=Pairs)


def _parts(text: str) -> tuple[bool, int, int]:
    """Sign, mantissa and decimal exponent of a number's text."""
    digits, _, exponent = text.lower().lstrip("+-").partition("e")
    whole, _, fraction = digits.partition(".")
    return text[0] == "-", int(whole + fraction), int(exponent or 0) - len(fraction)


def price(value: Any, scale: int) -> float:
    """A price or volume: `float()` of its text, shifted by `scale` decimal places."""
    if type(value) not in {str, Number} or not NUMBER.fullmatch(value):
        raise ValueError(f"{value!r} is no number")
    negative, mantissa, exponent = _parts(value)
    result = float(value) if scale == 0 else float(f"{'-' if negative else ''}{mantissa}e{exponent - scale}")
    if result in {float("inf"), float("-inf")}:
        raise ValueError(f"{value!r} is too large")
    return result


def iso_ms(value: Any) -> int:
    """ISO text to ms, UTC where it has no offset; digits behind the milliseconds are cut."""
    found = ISO.fullmatch(value) if type(value) is str else None
    if not found:
        raise ValueError(f"{value!r} is no time")
    *parts, fraction, offset = found.groups()
    moment = datetime(*map(int, parts), tzinfo=UTC)
    if offset and offset not in "Zz":
        shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:]))
        moment += -shift if offset[0] == "+" else shift
    whole_s = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return whole_s * 1000 + int(((fraction or ".")[1:] + "000")[:3])


def time_ms(value: Any, unit: str) -> int:
    """A time in ms, cut to whole ones."""
    if unit == "iso":
        ms = iso_ms(value)
    else:
        if type(value) not in {str, Number} or not NUMBER.fullmatch(value):
            raise ValueError(f"{value!r} is no time")
        negative, mantissa, exponent = _parts(value)
        places = exponent + PLACES[unit]
        if mantissa and (negative or len(str(mantissa)) > 19 or places > 18):
            raise ValueError(f"{value!r} is no time")
        ms = mantissa * 10**places if places >= 0 else mantissa // 10 ** min(-places, 20)
    if not 0 <= ms <= LAST_MS:
        raise ValueError(f"{value!r} is beyond 1970 to 9999")
    return ms


def _row(row: Any, fields: tuple[int | str, ...], kind: str) -> list[Any]:
    if kind == "lists":
        if type(row) is not list:
            raise ValueError(f"{row!r} is no list")
        return [row[field] if field < len(row) else None for field in fields]
    if type(row) is not Pairs:
        raise ValueError(f"{row!r} is no object")
    return [row.only(field) for field in fields]


def _follow(found: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        if type(step) is int:
            if type(found) is not list or step >= len(found):
                raise ValueError(f"no {step}")
            found = found[step]
        else:
            if type(found) is not Pairs:
                raise ValueError(f"no {step}")
            found = found.only(step)
    return found


def decode(
    text: str,
    fields: tuple[int | str, ...],
    *,
    rows: str = "lists",
    path: tuple[str | int, ...] = (),
    time: str = "ms",
    scales: tuple[int, ...] = (0, 0, 0, 0, 0),
) -> tuple[list[int], list[list[float]]]:
    """Times and five columns of an answer; ValueError where it is not what the layout says."""
    found = _follow(load(text), path)
    if rows == "columns":
        if type(found) is not Pairs:
            raise ValueError("no columns")
        columns = [found.only(field) for field in fields]
        if any(type(column) is not list or len(column) != len(columns[0]) for column in columns):
            raise ValueError("unequal columns")
        taken = [list(values) for values in zip(*columns, strict=True)]
    else:
        if type(found) is not list:
            raise ValueError("no rows")
        taken = [_row(row, fields, rows) for row in found]
    bars = [
        [time_ms(values[0], time), *(price(value, scale) for value, scale in zip(values[1:], scales, strict=True))]
        for values in taken
    ]
    bars.sort(key=lambda bar: bar[0])
    return [bar[0] for bar in bars], [[bar[i] for bar in bars] for i in range(1, 6)]

"""How an exchange writes its bars, learnt by asking its own ccxt class.

ccxt knows where each exchange keeps time, prices and volume of a bar, but only as code: `parse_ohlcv`. Here that code
is given rows of the shape that the exchange has just sent, with other values in them, each of which can be told from
all others; what comes out says where it came from, in which unit, and scaled by how many decimal places. Where that
leaves any doubt there is no layout, and ccxt's own reading is used.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

from ccxtbt._ohlcv import Layout

# A row of an exchange, raw: a list, or a dict.
Row = Any
# A bar as ccxt gives it: [ts_ms, open, high, low, close, volume].
Bar = list[Any]
Path = tuple[int | str, ...]
# Where a value was found in a row, and by how many decimal places ccxt moved its point.
Origin = tuple[int | str, int]

UNITS = {3: "s", 0: "ms", -3: "us", -6: "ns"}
ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})([Tt ])([0-9]{2}:[0-9]{2}:[0-9]{2})(\..+|[Zz])?")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_PATH = 6
# The rows lie in the lists of an answer's frame, never behind a list as long as one of rows.
LONGEST_FRAME = 20
# So many bars are compared to tell the columns of an answer from one another.
COMPARED = 50


def path_to(answer: Any, wanted: Any) -> Path | None:
    """Return the keys and indices that lead from a parsed answer to `wanted`, the very object; None if none do."""
    for path, value in _walk(answer, ()):
        if value is wanted:
            return path
    return None


def follow(answer: Any, path: Path) -> Any:
    """Return what lies at the end of a path."""
    for step in path:
        answer = answer[step]
    return answer


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Give every list and dict of an answer's frame with its path, the outer ones first."""
    yield path, value
    if len(path) == LONGEST_PATH:
        return
    if isinstance(value, dict):
        inner: Iterator[tuple[int | str, Any]] = iter(value.items())
    elif len(value) <= LONGEST_FRAME:
        inner = iter(enumerate(value))
    else:
        return
    for step, part in inner:
        if isinstance(part, (dict, list)):
            yield from _walk(part, (*path, step))


def _written_ms(value: Any) -> int | None:
    """Return the whole seconds of ISO text, in ms; None for everything else."""
    found = ISO.match(value) if isinstance(value, str) else None
    if not found:
        return None
    return (datetime.fromisoformat(f"{found[1]}T{found[3]}+00:00") - EPOCH) // timedelta(milliseconds=1)


def _marked(value: Any, mark: int) -> Any:
    """Return a value of the same type and shape as `value` that can be told by `mark`, six digits; else itself."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return value
    if isinstance(value, float):
        return mark / 1000
    text = str(value)
    if isinstance(value, str) and ISO.match(text):
        moment = EPOCH + timedelta(days=15000, seconds=mark)
        return ISO.sub(lambda found: f"{moment:%Y-%m-%d}{found[2]}{moment:%H:%M:%S}{found[4] or ''}", text, count=1)
    found = NUMBER.fullmatch(text)
    if not found:
        return value
    if found[1]:
        return f"{mark / 1000:.3f}"
    digits = text.lstrip("-")
    # What may be a time keeps its length and first digits, and is a whole number of seconds in any unit.
    marked = f"{digits[:2]}{mark}00".ljust(len(digits), "0") if len(digits) >= 10 else str(mark)
    return type(value)(marked)


def _zeroed(row: Row, fields: Sequence[int | str]) -> Row:
    """Return the row with zeros in these fields: some of ccxt's ways to read a number take zero for nothing."""
    zeroed: Row = dict(row) if isinstance(row, dict) else list(row)
    for field in fields:
        zeroed[field] = type(row[field])(0)
    return zeroed


def _items(row: Row) -> list[tuple[int | str, Any]]:
    return list(row.items()) if isinstance(row, dict) else list(enumerate(row))


def _shift(value: Any, result: Any) -> int | None:
    """Return by how many decimal places `value` was moved to give `result`; None if it was not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return None
    before, after = Decimal(str(value)).normalize().as_tuple(), Decimal(str(result)).normalize().as_tuple()
    if (before.sign, before.digits) != (after.sign, after.digits):
        return None
    return int(after.exponent) - int(before.exponent)


def _origin(row: Row, result: Any) -> Origin | None:
    """Return where in a marked row a result came from, if from exactly one place."""
    if isinstance(result, bool) or not isinstance(result, (int, float, str, Decimal)):
        return None
    found = [(key, shift) for key, value in _items(row) if (shift := _shift(value, result)) is not None]
    return found[0] if len(found) == 1 else None


def _time_origin(row: Row, result: Any) -> tuple[int | str, str] | None:
    """Return where in a marked row the time came from, and its unit."""
    if type(result) is not int:
        return None
    for key, value in _items(row):
        if _written_ms(value) == result:
            return key, "iso"
    origin = _origin(row, result)
    return (origin[0], UNITS[origin[1]]) if origin and origin[1] in UNITS else None


def _read(parse: Callable[[Row], Any], row: Row, first_mark: int) -> tuple[Any, ...] | None:
    """Mark a row, have it parsed, and tell where each value of the bar came from."""
    items = [(key, _marked(value, first_mark + 7919 * i)) for i, (key, value) in enumerate(_items(row))]
    marked: Row = dict(items) if isinstance(row, dict) else [value for _, value in items]
    bar = parse(marked)
    if not isinstance(bar, list) or len(bar) != 6:
        return None
    origins = (_time_origin(marked, bar[0]), *(_origin(marked, value) for value in bar[1:]))
    return None if None in origins else origins


def probe_rows(parse: Callable[[Row], Any], row: Row, path: Path = ()) -> Layout | None:
    """Find the layout of rows by having ccxt parse marked ones.

    Parameters
    ----------
    parse : callable
        The exchange's own `parse_ohlcv`, its market bound.
    row : list or dict
        A row that the exchange sent: its shape is kept (keys, lengths, types), since what ccxt does may hang on it.
    path : tuple
        Where the rows lie in the answer.

    Returns
    -------
    Layout or None
        None where a value of the bar comes from no single place of the row, or differently the second time.
    """
    if not isinstance(row, (list, dict)):
        return None
    # The marks' last digit is never 0: a decimal point may be moved over them without trace.
    first, second = _read(parse, row, 100_003), _read(parse, row, 200_017)
    if first is None or first != second:
        return None
    time, *prices = first
    fields = (time[0], *(origin[0] for origin in prices))
    if len(set(fields)) != 6 or any(isinstance(field, int) and field > 63 for field in fields):
        return None
    if parse(_zeroed(row, fields[1:]))[1:] != [0, 0, 0, 0, 0]:
        return None
    return Layout(
        fields,
        rows="dicts" if isinstance(row, dict) else "lists",
        path=path,
        time=time[1],
        scales=tuple(-shift for _, shift in prices),
    )


def _same(column: list[Any], wanted: Sequence[Any], factor: float) -> bool:
    """Whether a column of an answer gives these values."""
    try:
        return all(float(value) * factor == float(bar) for value, bar in zip(column, wanted, strict=False))
    except (TypeError, ValueError):
        return False


def probe_columns(parse: Callable[[Row], Any], answer: Any, rows: list[Row]) -> Layout | None:
    """Find the layout of an answer that is a dict of columns, which ccxt has made rows of.

    Parameters
    ----------
    parse : callable
        The exchange's own `parse_ohlcv`, its market bound.
    answer : dict or list
        The parsed answer.
    rows : list
        What ccxt made of it.

    Returns
    -------
    Layout or None
        None where some column of the bars is no, or more than one, column of the answer.
    """
    wanted = list(zip(*(parse(row) for row in rows[:COMPARED]), strict=True))
    if len(wanted) != 6:
        return None
    for path, part in _walk(answer, ()):
        if not isinstance(part, dict):
            continue
        columns = {key: value for key, value in part.items() if isinstance(value, list) and len(value) == len(rows)}
        times = [
            (key, unit)
            for key, column in columns.items()
            for places, unit in UNITS.items()
            if _same(column, wanted[0], 10.0**places)
        ]
        prices = [[key for key, column in columns.items() if _same(column, values, 1.0)] for values in wanted[1:]]
        if len(times) == 1 and all(len(keys) == 1 for keys in prices):
            fields = (times[0][0], *(keys[0] for keys in prices))
            return Layout(fields, rows="columns", path=path, time=times[0][1]) if len(set(fields)) == 6 else None
    return None


def find_layout(parse: Callable[[Row], Any], answer: Any, rows: Any) -> Layout | None:
    """Find the layout of an answer of which ccxt made these rows.

    Parameters
    ----------
    parse : callable
        The exchange's own `parse_ohlcv`, its market bound.
    answer : dict or list
        The answer, parsed.
    rows : list
        What ccxt's `fetch_ohlcv` handed to its `parse_ohlcvs`.

    Returns
    -------
    Layout or None
        None where there is no row, or any doubt.
    """
    if not isinstance(answer, (dict, list)) or not isinstance(rows, list) or not rows:
        return None
    path = path_to(answer, rows)
    return probe_columns(parse, answer, rows) if path is None else probe_rows(parse, rows[0], path)


def proves(ts_ms: NDArray[int64], ohlcv: NDArray[float64], bars: Sequence[Bar]) -> bool:
    """Whether columns hold these bars of ccxt's, to the last bit.

    Parameters
    ----------
    ts_ms, ohlcv : numpy.ndarray
        Columns, oldest first.
    bars : list
        ccxt's reading of some of the same rows.
    """
    for bar in bars:
        if None in bar:
            return False
        values = [float(value) for value in bar[1:]]
        at = bisect_left(ts_ms, bar[0])
        while at < len(ts_ms) and ts_ms[at] == bar[0] and ohlcv[:, at].tolist() != values:
            at += 1
        if at == len(ts_ms) or ts_ms[at] != bar[0]:
            return False
    return True

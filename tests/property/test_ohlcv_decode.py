"""The compiled decoder against the plain one: well-formed answers of every layout, and the same with a byte wrong."""

from __future__ import annotations

import json
import random
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from ccxtbt import _ohlcv
from ccxtbt.errors import DataError
from fuzz_ohlcv import fuzz
from reference import ohlcv as plain

LISTS = _ohlcv.Layout(range(6))


def bits(values: Any) -> bytes:
    """The very bits: -0.0 is not 0.0."""
    return np.asarray(values, np.float64).tobytes()


digits = st.text("0123456789", min_size=1, max_size=40)
exponents = st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 340))
decimals = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    digits,
    st.just("") | digits.map(".{}".format),
    st.just("") | exponents,
)
usual = st.builds("{}.{}".format, st.integers(0, 10**6), st.text("0123456789", min_size=1, max_size=12))


@given(st.lists(decimals | usual, min_size=5, max_size=5))
@example(["9007199254740993", "9007199254740992.5", "0.00000000000000000000000001", "2.4343353100000003", "-0.0"])
@example(["1e22", "1e23", "9007199254740993e1", "4.9406564584124654e-324", "1.7976931348623157e308"])
@example(
    ["9999999999999999999", "18446744073709551615", "1844674407370955161.7", "0." + "0" * 30 + "1", "1" + "0" * 39]
)
def test_prices_are_what_float_gives(texts: list[str]) -> None:
    body = json.dumps([[1, *texts]])
    wanted = [float(text) for text in texts]
    if any(value in {float("inf"), float("-inf")} for value in wanted):
        with pytest.raises(DataError):
            _ohlcv.decode(body, LISTS)
        return
    _, ohlcv = _ohlcv.decode(body, LISTS)
    assert bits(ohlcv[:, 0]) == bits(wanted)
    _, ohlcv = _ohlcv.rows_to_columns([[1, *texts]])
    assert bits(ohlcv[:, 0]) == bits(wanted)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=5, max_size=5))
def test_every_float_survives_its_shortest_text(values: list[float]) -> None:
    _, ohlcv = _ohlcv.decode(json.dumps([[1, *values]]), LISTS)
    assert bits(ohlcv[:, 0]) == bits(values)
    _, ohlcv = _ohlcv.decode(json.dumps([[1, *(f"{value:.40e}" for value in values)]]), LISTS)
    assert bits(ohlcv[:, 0]) == bits(values)


@given(st.integers(1, 2**64), st.integers(-30, 25))
def test_halfway_cases_round_to_even(mantissa: int, exponent: int) -> None:
    body = f'[[1,{mantissa}e{exponent},"{mantissa}e{exponent}",1,1,1]]'
    _, ohlcv = _ohlcv.decode(body, LISTS)
    assert bits(ohlcv[:2, 0]) == bits([float(f"{mantissa}e{exponent}")] * 2)


def test_seventeen_to_nineteen_digits_round_rightly_by_the_ten_thousand() -> None:
    """Past what a double holds exactly: among so many there are some a hair above the middle of two doubles."""
    draw = random.Random(20240229)
    texts = []
    for _ in range(60_000):
        digits = str(draw.randrange(10 ** draw.randrange(16, 19), 10**19))
        places = draw.randrange(1, 28)
        digits = digits.rjust(places + 1, "0")
        texts.append(f"{digits[:-places]}.{digits[-places:]}")
    # And some exactly in the middle: an odd number of 54 bits, divided by powers of two.
    for _ in range(5_000):
        places = draw.randrange(1, 5)
        digits = str((2**53 + 1 + 2 * draw.randrange(2**52)) * 5**places)
        texts.append(f"{digits[:-places]}.{digits[-places:]}")
    rows = [[1, *texts[i : i + 5]] for i in range(0, len(texts), 5)]
    _, ohlcv = _ohlcv.decode(json.dumps(rows), LISTS)
    assert bits(ohlcv.T) == bits([[float(text) for text in row[1:]] for row in rows])


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a layout."""
    rows = draw(st.sampled_from(["lists", "dicts", "columns"]))
    if rows == "lists":
        fields = draw(st.permutations(range(draw(st.integers(6, 12)))))[:6]
    else:
        fields = draw(st.permutations(["t", "open", "h", "low", "closing_price", "volume in base", "v2"]))[:6]
    return {
        "fields": tuple(fields),
        "rows": rows,
        "path": tuple(draw(st.lists(st.sampled_from(["data", "result", "XBT/USD", 0, 1, 2]), max_size=3))),
        "time": draw(st.sampled_from(["s", "ms", "us", "ns", "iso"])),
        "scales": tuple(draw(st.sampled_from([(0,) * 5, (4, 4, 4, 4, 8), (18,) * 5]))),
    }


def written_time(ms: int, unit: str) -> str:
    if unit == "iso":
        moment = datetime.fromtimestamp(ms // 1000, UTC)
        return json.dumps(f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z")
    return str(ms * 10 ** -plain.PLACES[unit] if unit != "s" else ms // 1000)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An answer and the layout that it is written in."""
    layout = draw(layouts())
    step_ms = draw(st.sampled_from([60_000, -60_000, 0, 86_400_000]))
    times = [1_700_000_000_000 + i * step_ms for i in range(draw(st.integers(0, 6)))]
    if draw(st.integers(0, 3)) == 0:
        times = draw(st.permutations(times))
    prices = st.integers(0, 10**9).map(str) | usual
    quote = draw(st.sampled_from(["{}", '"{}"']))
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    others = st.sampled_from(['"x"', "null", "-1.5e3", '{"a":[1,{"b":"]"}]}', "[[],[[]]]", '"\\"]\\u00e9"', "true"])
    keys = layout["fields"]

    def value(field: int, ms: int) -> str:
        if field == 0:
            text = written_time(ms, layout["time"])
            return text if layout["time"] == "iso" else quote.format(text)
        return quote.format(draw(prices))

    comma = f"{space},{space}"
    if layout["rows"] == "lists":
        rows = []
        for ms in times:
            row = [draw(others) for _ in range(max(keys) + 1 + draw(st.integers(0, 2)))]
            for field, at in enumerate(keys):
                row[at] = value(field, ms)
            rows.append(f"[{comma.join(row)}]")
        text = f"[{space}{comma.join(rows)}{space}]"
    elif layout["rows"] == "dicts":
        rows = []
        for ms in times:
            row = [f'"{key}"{space}:{value(field, ms)}' for field, key in enumerate(keys)] + [f'"other":{draw(others)}']
            rows.append(f"{{{comma.join(draw(st.permutations(row)))}}}")
        text = f"[{space}{comma.join(rows)}{space}]"
    else:
        columns = [f'"{key}":[{comma.join(value(field, ms) for ms in times)}]' for field, key in enumerate(keys)]
        columns.append(f'"other":{draw(others)}')
        text = f"{{{comma.join(draw(st.permutations(columns)))}}}"
    for step in reversed(layout["path"]):
        if type(step) is int:
            text = f"[{comma.join([*(draw(others) for _ in range(step)), text, draw(others)])}]"
        else:
            text = f'{{"before":{draw(others)}{comma}"{step}"{space}:{space}{text},"after":{draw(others)}}}'
    return space + text + space, layout


def compare(body: str, arguments: dict[str, Any]) -> None:
    """Both give the same columns, or both refuse."""
    note(body)
    note(repr(arguments))
    layout = _ohlcv.Layout(**arguments)
    try:
        wanted_ms, wanted = plain.decode(body, **arguments)
    except (ValueError, RecursionError, OverflowError):
        for text in (body, body.encode()):
            with pytest.raises(DataError, match=r"at byte [0-9]+"):
                _ohlcv.decode(text, layout)
        return
    for text in (body, body.encode()):
        ts_ms, ohlcv = _ohlcv.decode(text, layout)
        assert ts_ms.dtype == np.int64
        assert ohlcv.shape == (5, len(wanted_ms))
        assert ohlcv.flags.c_contiguous
        assert ts_ms.tolist() == wanted_ms
        assert bits(ohlcv) == bits(wanted)


@given(answers())
def test_every_layout_is_read_as_the_reference_reads_it(answer: tuple[str, dict[str, Any]]) -> None:
    body, arguments = answer
    plain.decode(body, **arguments)  # a good answer, or the comparison would prove little
    compare(body, arguments)


@given(answers(), st.data())
def test_a_damaged_answer_is_refused_as_the_reference_refuses_it(
    answer: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    body, arguments = answer
    kind = data.draw(st.sampled_from(["cut", "drop", "insert", "replace", "double"]))
    at = data.draw(st.integers(0, len(body)))
    other = data.draw(st.sampled_from([*'0123456789.,:-+eE"[]{} xntf', "null", "NaN", "1e999", '""', "\0", "\x1f"]))
    stop = min(len(body), at + data.draw(st.integers(1, 9)))
    damaged = {
        "cut": body[:at],
        "drop": body[:at] + body[stop:],
        "insert": body[:at] + other + body[at:],
        "replace": body[:at] + other + body[stop:],
        "double": body[:stop] + body[at:],
    }[kind]
    compare(damaged, arguments)


@given(answers())
def test_the_spliced_answer_holds_the_first_and_the_last_row(answer: tuple[str, dict[str, Any]]) -> None:
    body, arguments = answer
    ts_ms, ohlcv, rest = _ohlcv.decode_and_splice(body, _ohlcv.Layout(**arguments))
    whole, part = json.loads(body), json.loads(rest)
    for step in arguments["path"]:
        whole, part = whole[step], part[step]
    if arguments["rows"] == "columns":
        assert part.keys() == whole.keys()
        for key in arguments["fields"]:
            assert part[key] == (whole[key] if len(whole[key]) < 2 else [whole[key][0], whole[key][-1]])
        assert part["other"] == whole["other"]
    else:
        assert part == (whole if len(whole) < 2 else [whole[0], whole[-1]])
    again_ms, again = _ohlcv.decode(body, _ohlcv.Layout(**arguments))
    assert ts_ms.tolist() == again_ms.tolist()
    assert bits(ohlcv) == bits(again)


@given(answers())
def test_parsed_rows_give_the_columns_of_their_text(answer: tuple[str, dict[str, Any]]) -> None:
    body, arguments = answer
    if arguments["rows"] == "columns":
        return
    rows = json.loads(body, parse_float=str)  # a float is rounded once already: scaling it would round again
    for step in arguments["path"]:
        rows = rows[step]
    wanted_ms, wanted = _ohlcv.decode(body, _ohlcv.Layout(**arguments))
    ts_ms, ohlcv = _ohlcv.rows_to_columns(rows, _ohlcv.Layout(**arguments))
    assert ts_ms.tolist() == wanted_ms.tolist()
    assert bits(ohlcv) == bits(wanted)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=False, allow_infinity=False)), max_size=20))
def test_bars_of_one_time_keep_their_order(bars: list[tuple[int, float]]) -> None:
    rows = [[ms, value, value, value, value, value] for ms, value in bars]
    wanted = sorted(bars, key=lambda bar: bar[0])
    for ts_ms, ohlcv in (_ohlcv.rows_to_columns(rows), _ohlcv.decode(json.dumps(rows), LISTS)):
        assert ts_ms.tolist() == [ms for ms, _ in wanted]
        assert bits(ohlcv) == bits([[value for _, value in wanted]] * 5)


@given(st.binary(max_size=300))
@example(struct.pack("<Q", 0x3030303030303030) * 4)
def test_any_bytes_are_refused_or_read(body: bytes) -> None:
    """No crash, and no answer without a list."""
    try:
        ts_ms, _ = _ohlcv.decode(body, LISTS)
    except DataError:
        return
    assert len(ts_ms) == len(json.loads(body))


def test_damaged_answers_by_the_thousand() -> None:
    """The fuzz driver itself, for a moment; its own docstring says how to run it by the million."""
    counts = fuzz(20_000, seed=7, compare=10)
    assert min(counts.values()) >= 1_000

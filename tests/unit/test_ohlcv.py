"""What the decoder says of answers that it refuses, and its contract where no reference is needed."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from ccxtbt._ohlcv import Layout, decode, decode_and_splice, rows_to_columns
from ccxtbt.errors import ConfigError, DataError

LISTS = Layout(range(6))
DICTS = Layout(("t", "o", "h", "l", "c", "v"), rows="dicts", path=("data",))
COLUMNS = Layout(("t", "o", "h", "l", "c", "v"), rows="columns")
ROW = '[1700000000000,"1.5","2","1","1.75","10"]'


@pytest.mark.parametrize(
    ("body", "at", "reason"),
    [
        ("", 0, "a list is expected, and its end is there"),
        ("   ", 3, "a list is expected"),
        ("<html><body>503</body></html>", 0, "a list is expected, and b'<html>"),
        ("null", 0, "a list is expected"),
        ('{"code":-1003,"msg":"Too many requests"}', 0, "a list is expected"),
        ("[", 1, "a row is expected"),
        (f"[{ROW}", 42, "a comma or a closing bracket is expected"),
        (f"[{ROW},]", 43, "(row 1) a row is expected"),
        (f"[{ROW}]x", 43, "the end is expected"),
        (f"[{ROW}]\0", 43, "the end is expected"),
        (f"[{ROW},null]", 43, "a row is expected"),
        ("[[]]", 2, "a time"),
        ("[[1,2,3,4,5]]", 1, "a row ends that lacks"),
        ("[[1,2,3,4,5,null]]", 12, "a decimal number"),
        ("[[1,null,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,NaN,3,4,5,6]]", 4, "a decimal number"),
        ('[[1,"NaN",3,4,5,6]]', 4, "a decimal number"),
        ('[[1,"inf",3,4,5,6]]', 4, "a decimal number"),
        ('[[1,"",3,4,5,6]]', 4, "a decimal number"),
        ('[[1," 2",3,4,5,6]]', 4, "a decimal number"),
        ('[[1,"2 ",3,4,5,6]]', 4, "a decimal number"),
        ('[[1,"0x10",3,4,5,6]]', 4, "a decimal number"),
        ('[[1,"1_000",3,4,5,6]]', 4, "a decimal number"),
        ("[[1,+2,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,02,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,.5,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,5.,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,5e,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,-,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,true,3,4,5,6]]", 4, "a decimal number"),
        ("[[1,[2],3,4,5,6]]", 4, "a decimal number"),
        ("[[1,1e400,3,4,5,6]]", 4, "beyond what a float holds"),
        (f"[[1,1e{'9' * 5000},3,4,5,6]]", 4, "beyond what a float holds"),
        ("[[-1,2,3,4,5,6]]", 2, "a time within the years 1970 to 9999"),
        ("[[253402300800000,2,3,4,5,6]]", 2, "a time within"),
        ("[[1e300,2,3,4,5,6]]", 2, "a time within"),
        ("[[null,2,3,4,5,6]]", 2, "a time within"),
        ("[" * 100_000, 2, "a time"),
        ("[[1,2,3,4,5,6," + "[" * 2000, 14 + 1024, "the nesting is deeper"),
        ("[[1,2,3,4,5,6," + "[" * 1000 + "}", 1014, "a JSON value"),
        ("[[1,2,3,4,5,6,[1}]]", 16, "a comma or a closing bracket"),
        ('[[1,2,3,4,5,6,{"a"}]]', 18, "a key and a colon"),
        ('[[1,2,3,4,5,6,{"a":1,}]]', 21, "a key and a colon"),
        ("[[1,2,3,4,5,6,tru]]", 14, "a JSON value"),
        ('[[1,2,3,4,5,6,"a\\x"]]', 14, "a text begins"),
        ('[[1,2,3,4,5,6,"a\\u12g4"]]', 14, "a text begins"),
        ('[[1,2,3,4,5,6,"a\n"]]', 14, "a text begins"),
        ('[[1,2,3,4,5,6,"a\\', 14, "a text begins"),
    ],
)
def test_what_is_no_list_of_bars_is_refused_with_its_place(body: str, at: int, reason: str) -> None:
    for text in (body, body.encode()):
        with pytest.raises(DataError) as caught:
            decode(text, LISTS)
        assert f"at byte {at} " in str(caught.value)
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("body", "layout", "reason"),
    [
        ('{"data":[{"t":1,"o":1,"h":1,"l":1,"c":1}]}', DICTS, "a row ends that lacks"),
        ('{"data":[{}]}', DICTS, "a key and a colon"),
        ('{"data":[{"t":1,"o":1,"h":1,"l":1,"c":1,"v":1,"c":2}]}', DICTS, "a key comes for the second time"),
        ('{"data":[{"t":1,"\\u006f":1,"h":1,"l":1,"c":1,"v":1}]}', DICTS, "a key is written with escapes"),
        ('{"data":[],"data":[]}', DICTS, "a key comes for the second time"),
        ('{"data":[[1,2,3,4,5,6]]}', DICTS, "a row is expected"),
        ('{"data":{}}', DICTS, "a list is expected"),
        ('{"error":"x"}', DICTS, "ends in which the rows were expected"),
        ("[]", DICTS, "an object is expected"),
        ('{"data":[]', DICTS, "a comma or a closing bracket"),
        ('{"t":[1],"o":[1],"h":[1],"l":[1],"c":[1]}', COLUMNS, "ends in which the rows were expected"),
        ('{"t":[1],"o":[1],"h":[1],"l":[1],"c":[1],"v":[]}', COLUMNS, "length is not that of the times"),
        ('{"t":[1],"o":[1],"h":[1],"l":[1],"c":[1],"v":[1,2]}', COLUMNS, "length is not that of the times"),
        ('{"t":[],"o":[],"h":[],"l":[],"c":[],"v":[1]}', COLUMNS, "length is not that of the times"),
        ('{"t":[1],"o":[1],"h":[1],"l":[1],"c":[null],"v":[1]}', COLUMNS, "a decimal number"),
        ('{"t":[[1,2]],"o":[1],"h":[1],"l":[1],"c":[1],"v":[1]}', COLUMNS, "a time within"),
        ('{"t":1,"o":[1],"h":[1],"l":[1],"c":[1],"v":[1]}', COLUMNS, "a list is expected"),
        ('{"t":[1],"t":[1]}', COLUMNS, "a key comes for the second time"),
        ("[[1,2,3,4,5,6]]", Layout(range(6), path=(1,)), "ends in which the rows were expected"),
        ("[1,]", Layout(range(6), path=(1,)), "a JSON value is expected"),
    ],
)
def test_other_layouts_refuse_with_a_reason(body: str, layout: Layout, reason: str) -> None:
    with pytest.raises(DataError, match="at byte") as caught:
        decode(body, layout)
    assert reason in str(caught.value)


@pytest.mark.parametrize("layout", [LISTS, DICTS, COLUMNS])
def test_no_rows_give_empty_columns(layout: Layout) -> None:
    body = {"lists": "[]", "dicts": '{"data": [ ]}', "columns": '{"t":[],"o":[],"h":[],"l":[],"c":[],"v":[]}'}
    ts_ms, ohlcv, rest = decode_and_splice(body[layout.rows], layout)
    assert ts_ms.shape == (0,)
    assert ohlcv.shape == (5, 0)
    assert rest == body[layout.rows].encode()


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_newest_first_comes_out_oldest_first(count: int, spare: int) -> None:
    """Also where brackets behind the rows made room for more of them than there are."""
    rows = [[1000 * i, i, 2 * i, 3 * i, 4 * i, 5 * i] for i in range(count)]
    body = json.dumps({"data": rows[::-1], "more": [[]] * spare})
    ts_ms, ohlcv = decode(body, Layout(range(6), path=("data",)))
    assert ts_ms.tolist() == [1000 * i for i in range(count)]
    assert ohlcv.tolist() == [[float(factor * i) for i in range(count)] for factor in range(1, 6)]
    assert ohlcv.flags.c_contiguous


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1], [0, 2, 1], [2, 1, 1, 0], [1, 1, 0], [3, 2, 1, 0, 4]])
def test_rows_in_no_order_are_sorted(order: list[int]) -> None:
    rows = [[at, i, i, i, i, i] for i, at in enumerate(order)]
    ts_ms, ohlcv = decode(json.dumps(rows), LISTS)
    assert ts_ms.tolist() == sorted(order)
    assert ohlcv[0].tolist() == sorted(range(len(order)), key=lambda i: order[i])
    assert ohlcv.flags.c_contiguous


@pytest.mark.parametrize("size", [10, 100, 1000, 5000])
def test_large_bodies_are_read_without_the_lock(size: int) -> None:
    """Bodies above 64 KiB go another way, and so do numbers there that need the interpreter."""
    rows = [[i, "0.1234567890123456789012345", "1e-300", 0.5, "1.25", "2.4343353100000003"] for i in range(size)]
    body = json.dumps(rows)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(decode(body, LISTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wanted = [0.1234567890123456789012345, 1e-300, 0.5, 1.25, 2.4343353100000003]
    assert len(results) == 4
    for ts_ms, ohlcv in results:
        assert ts_ms.tolist() == list(range(size))
        assert ohlcv.tolist() == [[value] * size for value in wanted]


@pytest.mark.parametrize("rows", ["lists", "columns"])
def test_the_lock_is_released_while_a_large_body_is_read(rows: str) -> None:
    """With no switching by time, another thread can only run meanwhile if the lock is given up."""
    if rows == "lists":
        body, layout = f"[{','.join([ROW] * 300_000)}]", LISTS
    else:
        column = f"[{','.join(['1700000000000'] * 200_000)}]"
        body, layout = f"{{{','.join(f'{json.dumps(key)}:{column}' for key in 'tohlcv')}}}", COLUMNS
    asked = threading.Event()
    ran_at: list[float] = []

    def other() -> None:
        asked.wait()
        ran_at.append(time.perf_counter())

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(100)
    thread = threading.Thread(target=other)
    try:
        thread.start()
        asked.set()
        decode(body, layout)
        done_at = time.perf_counter()
        thread.join(60)
    finally:
        sys.setswitchinterval(interval_s)
    assert ran_at[0] < done_at


@pytest.mark.parametrize(
    "body",
    [
        "[" * 3_000_000,
        '{"a":' * 600_000,
        f"[[1,{'9' * 1_000_000},1,1,1,1]]",
        f"[[1,0.{'0' * 1_000_000}1,1,1,1,1]]",
        f"[[{'1' * 1_000_000},1,1,1,1,1]]",
        f'[[1,1,1,1,1,1,"{chr(92) * 2_000_000}"]]',
        f"[{'[1,1,1,1,1,1],' * 200_000}",
        "[[1,1,1,1,1,1," + '{"a":[' * 400_000,
    ],
)
def test_hostile_bodies_take_no_long_time(body: str) -> None:
    start_s = time.perf_counter()
    with contextlib.suppress(DataError):
        decode(body, LISTS)
    assert time.perf_counter() - start_s < 2


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2020-02-29T23:59:59.999Z", 1583020799999),
        ("2024-03-01 00:00:00", 1709251200000),
        ("2023-11-14T22:13:20.1234567Z", 1700000000123),
        ("2023-11-14T22:13:20.1Z", 1700000000100),
        ("2023-11-15T00:13:20+02:00", 1700000000000),
        ("2023-11-14T16:43:20-0530", 1700000000000),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("2023-02-29T00:00:00Z", None),
        ("1900-02-29T00:00:00Z", None),
        ("2023-13-01T00:00:00Z", None),
        ("2023-00-01T00:00:00Z", None),
        ("2023-01-00T00:00:00Z", None),
        ("2023-01-01T24:00:00Z", None),
        ("2023-01-01T00:60:00Z", None),
        ("2023-01-01T00:00:60Z", None),
        ("2023-01-01T00:00:00.Z", None),
        ("2023-01-01T00:00:00Zx", None),
        ("2023-01-01T00:00", None),
        ("2023-01-01", None),
        ("1969-12-31T23:59:59Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("1700000000000", None),
        ("", None),
    ],
)
def test_iso_times(text: str, ms: int | None) -> None:
    layout = Layout(range(6), time="iso")
    for read in (
        lambda: decode(json.dumps([[text, 1, 1, 1, 1, 1]]), layout),
        lambda: rows_to_columns([[text, 1, 1, 1, 1, 1]], layout),
    ):
        if ms is None:
            with pytest.raises(DataError):
                read()
        else:
            assert read()[0].tolist() == [ms]


@pytest.mark.parametrize(
    "row",
    [
        [None] * 6,
        [None, 1.0, 1.0, 1.0, 1.0, 1.0],
        [1, None, 1.0, 1.0, 1.0, 1.0],
        [1, 1.0, 1.0, 1.0, None, 1.0],
        [1, 1.0, float("nan"), 1.0, 1.0, 1.0],
        [1, 1.0, 1.0, float("inf"), 1.0, 1.0],
        [1, 1.0, 1.0, 1.0, 1.0, float("nan")],
        [1, 1.0, 1.0, 1.0, 1.0],
        [1, 10**400, 1.0, 1.0, 1.0, 1.0],
        [10**30, 1.0, 1.0, 1.0, 1.0, 1.0],
        [-1, 1.0, 1.0, 1.0, 1.0, 1.0],
        [True, 1.0, 1.0, 1.0, 1.0, 1.0],
        [1, True, 1.0, 1.0, 1.0, 1.0],
        [1, "x", 1.0, 1.0, 1.0, 1.0],
        [1, [1.0], 1.0, 1.0, 1.0, 1.0],
        [float("nan"), 1.0, 1.0, 1.0, 1.0, 1.0],
        {"0": 1},
        None,
        7,
    ],
)
def test_parsed_rows_that_are_no_bars_are_refused(row: Any) -> None:
    good = [1, 1.0, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(DataError, match=r"Row 1 of 3 has no usable (time|open|high|low|close|volume)"):
        rows_to_columns([good, row, good])


def test_parsed_rows_of_other_numbers() -> None:
    ts_ms, ohlcv = rows_to_columns([[1.0, 1, Decimal("2.5"), "3.25", 4, None], [2, 1, 1, 1, 1, np.float64(5)]])
    assert ts_ms.tolist() == [1, 2]
    assert ohlcv.tolist() == [[1, 1], [2.5, 1], [3.25, 1], [4, 1], [0, 5]]


def test_scaled_parsed_rows_take_their_decimal_text() -> None:
    layout = Layout(range(6), time="s", scales=(4, 4, 4, 4, 8))
    ts_ms, ohlcv = rows_to_columns([[1592467200, 93276000, 93276001, 9.5, "7", 48759063370]], layout)
    assert ts_ms.tolist() == [1592467200000]
    assert ohlcv[:, 0].tolist() == [9327.6, 9327.6001, 0.00095, 0.0007, 487.5906337]


def test_a_row_that_shrinks_while_it_is_read_is_refused() -> None:
    row: list[Any] = [1, None, 1.0, 1.0, 1.0, 1.0]
    rows: list[Any] = [row, [2, 1.0, 1.0, 1.0, 1.0, 1.0]]

    class Odd:
        def __float__(self) -> float:
            row.clear()
            rows.clear()
            return 1.0

    row[1] = Odd()
    with pytest.raises(DataError):
        rows_to_columns(rows)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fields": range(5)},
        {"fields": (0, 1, 2, 3, 4, 4)},
        {"fields": (0, 1, 2, 3, 4, 64)},
        {"fields": (0, 1, 2, 3, 4, -1)},
        {"fields": "tohlcv"},
        {"fields": range(6), "rows": "dicts"},
        {"fields": range(6), "rows": "tables"},
        {"fields": range(6), "time": "h"},
        {"fields": range(6), "path": (None,)},
        {"fields": range(6), "path": (-1,)},
        {"fields": range(6), "scales": (0,)},
        {"fields": range(6), "scales": (0, 0, 0, 0, 99)},
    ],
)
def test_wrong_layouts_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Layout(**arguments)


def test_layouts_are_values() -> None:
    again = Layout((0, 1, 2, 3, 4, 5))
    assert again == LISTS
    assert hash(again) == hash(LISTS)
    assert again != Layout(range(6), time="s")
    assert again != "lists"
    assert eval(repr(DICTS)) == DICTS


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="bytes or str"):
        decode(bytearray(b"[]"), LISTS)  # type: ignore[arg-type]  # the error is what is tested
    with pytest.raises(ConfigError, match="columns"):
        rows_to_columns([], COLUMNS)
    with pytest.raises(DataError, match="surrogate"):
        decode("[\ud800]", LISTS)


def test_text_beyond_ascii_is_read_by_its_bytes() -> None:
    body = f'{{"naïve":"é","data":[{ROW}],"x":"日本"}}'
    layout = Layout(range(6), path=("data",))
    assert decode(body, layout)[0].tolist() == [1700000000000]
    assert decode_and_splice(body, layout)[2] == body.encode()

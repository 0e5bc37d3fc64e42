"""Layouts, found by asking ccxt's own `parse_ohlcv`: from what exchanges really send, and where no answer is safe."""

from __future__ import annotations

import json
from typing import Any

import ccxt.async_support
import numpy as np
import pytest

from ccxtbt._ohlcv import Layout, decode, rows_to_columns
from ccxtbt.exchange.layouts import find_layout, follow, path_to, probe_columns, probe_rows, proves
from recording import recorded
from reference import answers

MARKET = {"id": "X", "spot": True, "inverse": False, "swap": False, "type": "spot", "priceScale": 8, "valueScale": 8}
# Rows whose bars are computed, not read: ccxt aligns the time to the period that stands in the row.
COMPUTED = {"onetrading"}


def samples() -> list[tuple[str, Any]]:
    """Every row that ccxt's sources quote beside a `parse_ohlcv`."""
    found = []
    folder = recorded("ccxt_samples/rest")
    for file in sorted(folder.glob("*.json")):
        for sample in json.loads(file.read_text()).get("parse_ohlcv", []):
            row = sample.get("json")
            if isinstance(row, list) and row and isinstance(row[0], (list, dict)):
                row = row[0]
            if row is not None:
                found.append((file.stem, row))
    return found


def test_a_layout_is_found_for_every_exchange_that_ccxt_quotes_a_row_of() -> None:
    seen = set()
    for name, row in samples():
        exchange = getattr(ccxt.async_support, name)()
        bar = exchange.parse_ohlcv(row, MARKET)
        layout = probe_rows(lambda raw, parse=exchange.parse_ohlcv: parse(raw, MARKET), row)
        if None in bar or name in COMPUTED:
            assert layout is None, name
            continue
        assert layout is not None, name
        ts_ms, ohlcv = decode(json.dumps([row]), layout)
        assert proves(ts_ms, ohlcv, [bar]), name
        assert proves(*rows_to_columns([row], layout), [bar]), name
        seen.add(name)
    assert len(seen) >= 40


@pytest.mark.parametrize(
    ("name", "market", "row", "layout"),
    [
        (
            "binance",
            {},
            [1591478520000, "0.1", "0.1", "0.1", "0.1", "2", 1, "3.5", 40, "1", "2", "0"],
            Layout(range(6)),
        ),
        (
            "binance",
            {"inverse": True},
            [1591478520000, "0.1", "0.1", "0.1", "0.1", "2", 1, "3.5", 40, "1", "2", "0"],
            Layout((0, 1, 2, 3, 4, 7)),
        ),
        ("bybit", {"inverse": True}, ["1621162800000", "1", "2", "1", "2", "3", "4"], Layout((0, 1, 2, 3, 4, 6))),
        (
            "okx",
            {"type": "swap"},
            ["1678928760000", "1", "2", "1", "2", "3", "4", "5", "0"],
            Layout((0, 1, 2, 3, 4, 6)),
        ),
        ("kraken", {}, [1591475640, "1", "1", "1", "1", "1", "9.1", 5], Layout((0, 1, 2, 3, 4, 6), time="s")),
        ("kucoin", {}, ["1545904980", "1", "2", "3", "4", "5", "6"], Layout((0, 1, 3, 4, 2, 5), time="s")),
        ("kucoin", {}, ["1545904980000", "1", "2", "3", "4", "5", "6"], Layout(range(6))),
        (
            "phemex",
            {"spot": True, "priceScale": 4, "valueScale": 8},
            [1592467200, 300, 1, 2, 3, 4, 5, 6, 7],
            Layout((0, 3, 4, 5, 6, 7), time="s", scales=(4, 4, 4, 4, 8)),
        ),
        (
            "phemex",
            {"spot": False, "priceScale": 4},
            [1592467200, 300, 1, 2, 3, 4, 5, 6, 7],
            Layout((0, 3, 4, 5, 6, 7), time="s", scales=(4, 4, 4, 4, 0)),
        ),
    ],
)
def test_the_market_and_the_row_decide(name: str, market: dict[str, Any], row: list[Any], layout: Layout) -> None:
    exchange = getattr(ccxt.async_support, name)()
    assert probe_rows(lambda raw: exchange.parse_ohlcv(raw, market), row) == layout


ROW = [1591478520000, "1.5", "2.5", "0.5", "1.5", "10"]


@pytest.mark.parametrize(
    "parse",
    [
        lambda row: [int(row[0]), *(float(value) for value in row[1:5]), None],  # no volume
        lambda row: [int(row[0]) // 60000 * 60000 + 1, *(float(value) for value in row[1:6])],  # a time computed
        lambda row: [int(row[0]), *(float(value) for value in row[1:5]), 2 * float(row[5])],  # contracts to units
        lambda row: [int(row[0]), *(float(value) for value in (row[1], row[1], *row[3:6]))],  # one value for two
        lambda row: [int(row[0]), 1.0, *(float(value) for value in row[2:6])],  # a constant
        lambda row: [7 * int(row[0]), *(float(value) for value in row[1:6])],  # an unknown unit
        lambda row: [int(row[0]), *(float(value) for value in row[1:5])],  # no bar
        lambda row: [int(row[0]), *(float(value) for value in (row[1 + (float(row[1]) > 150)], *row[2:6]))],  # by value
        lambda row: [int(row[0]), *(float(value) for value in row[1:5]), float(row[5]) or None],  # zero for nothing
        lambda row: row[0],
        lambda row: [str(row[0]), *(float(value) for value in row[1:6])],
    ],
)
def test_where_probing_cannot_tell_there_is_no_layout(parse: Any) -> None:
    assert probe_rows(parse, ROW) is None


def test_a_row_of_another_kind_has_no_layout() -> None:
    assert probe_rows(lambda row: row, "1,2,3,4,5,6") is None
    assert probe_rows(lambda row: row, None) is None


def test_the_path_is_that_of_the_very_rows() -> None:
    rows = [list(ROW)]
    answer = {"a": [list(ROW)], "result": {"list": [{"x": 1}, {"rows": rows}]}}
    path = path_to(answer, rows)
    assert path == ("result", "list", 1, "rows")
    assert follow(answer, path) is rows
    assert path_to(answer, [list(ROW)]) is None


def test_columns_are_told_apart_by_their_values() -> None:
    exchange = ccxt.async_support.deribit()
    bars = answers.candles(30)
    body = answers.deribit(bars)
    answer = json.loads(body)
    rows = exchange.convert_trading_view_to_ohlcv(
        answer["result"], "ticks", "open", "high", "low", "close", "volume", True
    )
    layout = find_layout(exchange.parse_ohlcv, answer, rows)
    names = ("ticks", "open", "high", "low", "close", "volume")
    assert layout == Layout(names, rows="columns", path=("result",), time="ms")
    assert proves(*decode(body, layout), exchange.parse_ohlcvs(rows))
    answer["result"]["bid"] = answer["result"]["open"]
    assert probe_columns(exchange.parse_ohlcv, answer, rows) is None


def test_columns_in_seconds() -> None:
    answer = {"time": [1700000040, 1700000100], "o": [1, 2], "h": [3, 4], "l": [0.5, 0.25], "c": [5, 6], "v": [7, 8]}
    rows = [[1700000040000, 1, 3, 0.5, 5, 7], [1700000100000, 2, 4, 0.25, 6, 8]]
    layout = find_layout(list, answer, rows)
    assert layout == Layout(("time", "o", "h", "l", "c", "v"), rows="columns", time="s")


@pytest.mark.parametrize("rows", [[], None, {}, "rows"])
def test_nothing_is_learnt_from_no_rows(rows: Any) -> None:
    assert find_layout(list, {"data": rows}, rows) is None


def test_a_proof_is_to_the_last_bit() -> None:
    ts_ms = np.array([1, 2, 2, 3])
    ohlcv = np.arange(20.0).reshape(5, 4)
    bars = [[int(ts_ms[at]), *ohlcv[:, at].tolist()] for at in range(4)]
    assert proves(ts_ms, ohlcv, bars)
    assert proves(ts_ms, ohlcv, [])
    for at in range(4):
        for column in range(5):
            wrong = ohlcv.copy()
            wrong[column, at] = np.nextafter(wrong[column, at], 99)
            assert not proves(ts_ms, wrong, bars)
        assert not proves(ts_ms, ohlcv, [[4, *bars[at][1:]]])
        assert not proves(ts_ms, ohlcv, [[*bars[at][:5], None]])

"""Timeframes: backtrader's pair, ccxt's text, milliseconds and the calendar."""

from __future__ import annotations

import backtrader as bt
import ccxt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.market import timeframes
from ccxtbt.market.timeframes import (
    DAY_MS,
    GRANULARITIES,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    WEEK_MS,
    Timeframe,
    close_ms,
    floor_ms,
    from_backtrader,
    next_ms,
    parse,
    to_backtrader,
)
from reference import bars as plain

T = bt.TimeFrame
TEXTS = ["1s", "15s", "1m", "7m", "90m", "1h", "4h", "1d", "3d", "1w", "2w", "1M", "3M", "4M", "6M", "1y", "2y"]
# The years that datetime can count, with room for a few bars more.
in_calendar = st.integers(plain.ms_of(plain.EPOCH.replace(year=10)), plain.ms_of(plain.EPOCH.replace(year=9990)))


def at(*moment: int) -> int:
    return plain.ms_of(plain.datetime(*moment, tzinfo=plain.UTC))


@pytest.mark.parametrize(
    ("text", "unit", "amount", "ms", "months"),
    [
        ("1s", "s", 1, SECOND_MS, 0),
        ("5m", "m", 5, 5 * MINUTE_MS, 0),
        ("4h", "h", 4, 4 * HOUR_MS, 0),
        ("3d", "d", 3, 3 * DAY_MS, 0),
        ("2w", "w", 2, 2 * WEEK_MS, 0),
        ("3M", "M", 3, None, 3),
        ("1y", "y", 1, None, 12),
        ("1Y", "y", 1, None, 12),
    ],
)
def test_parse(text: str, unit: str, amount: int, ms: int | None, months: int) -> None:
    parsed = parse(text)
    assert parsed == Timeframe(text, unit, amount, ms)
    assert parsed.months == months
    assert str(parsed) == text
    assert parse(parsed) is parsed


@pytest.mark.parametrize(
    "text", ["", "m", "5", "0m", "05m", "-1m", "1.5m", "1H", "1D", "5 m", "5m ", "٣m", "1000000s", "5x"]
)
def test_an_unknown_text_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Unknown timeframe .*'1s', '5m', '1h', '1d', '1w', '1M', '1y'"):
        parse(text)


@pytest.mark.parametrize("value", [None, 60, (T.Minutes, 1)])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="A timeframe is text"):
        parse(value)


def test_every_exchange_timeframe_that_ccxt_can_read_is_read() -> None:
    listed = {text for name in ccxt.exchanges for text in getattr(ccxt, name)().timeframes or {}}
    assert len(listed) > 25
    unreadable = {"15", "30"}
    for text in listed - unreadable:
        assert parse(text).nominal_ms == ccxt.Exchange.parse_timeframe(text.replace("Y", "y")) * 1000


def test_habitual_granularities() -> None:
    """Those that scripts written for bt-ccxt-store ask for."""
    texts = ["1m", "3m", "5m", "15m", "30m", "1h", "90m", "2h", "3h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "2w"]
    texts += ["1M", "3M", "6M", "1y"]
    assert sorted(GRANULARITIES.values()) == sorted(texts)
    for pair, text in GRANULARITIES.items():
        assert from_backtrader(*pair) == text
        assert from_backtrader(*pair, offered=texts) == text
        assert to_backtrader(text) == pair


@pytest.mark.parametrize(
    ("timeframe", "compression", "offered", "text"),
    [
        (T.Seconds, 1, None, "1s"),
        (T.Seconds, 60, None, "1m"),
        (T.Minutes, 60, None, "1h"),
        (T.Minutes, 90, None, "90m"),
        (T.Minutes, 1440, None, "1d"),
        (T.Days, 7, None, "7d"),
        (T.Months, 12, None, "12M"),
        (T.Minutes, 60, ["1m", "60m"], "60m"),
        (T.Minutes, 60, ["1h", "60m"], "60m"),
        (T.Minutes, 1440, ["1m", "1d"], "1d"),
        (T.Days, 7, ["1w"], "1w"),
        (T.Days, 7, ["1w", "7d"], "7d"),
        (T.Weeks, 1, ["1d", "7d"], "7d"),
        (T.Years, 1, ["1M", "1Y"], "1Y"),
        (T.Years, 1, ["12M"], "12M"),
        (T.Minutes, 15, ["15", "15m"], "15m"),
    ],
)
def test_from_backtrader(timeframe: int, compression: int, offered: list[str] | None, text: str) -> None:
    assert from_backtrader(timeframe, compression, offered) == text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((T.Minutes, 7, ["1m", "5m"]), NotOfferedError, r"Minutes x 7 \(7m\): choose one of 1m, 5m, or resample"),
        ((T.Minutes, 1, []), NotOfferedError, "choose one of none at all"),
        ((T.Months, 1, ["30d"]), NotOfferedError, "Months x 1"),
        ((T.Ticks, 1), NotOfferedError, "No exchange has bars of Ticks"),
        ((T.MicroSeconds, 5, ["1s"]), NotOfferedError, "No exchange has bars of MicroSeconds"),
        ((T.NoTimeFrame, 1), ConfigError, "Unknown backtrader timeframe"),
        ((99, 1), ConfigError, "Unknown backtrader timeframe 99"),
        ((T.Days, 0), ConfigError, "Compression 0 of Days"),
        ((T.Days, -1), ConfigError, "Compression -1 of Days"),
        ((T.Days, 1.0), ConfigError, r"Compression 1\.0 of Days"),
        ((T.Days, True), ConfigError, "Compression True of Days"),
        ((T.Days, 10**6), ConfigError, "1 to 999999"),
    ],
)
def test_from_backtrader_refuses(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_backtrader(*arguments)


def test_errors_are_those_that_old_scripts_catch() -> None:
    with pytest.raises(ValueError, match="7m"):
        from_backtrader(T.Minutes, 7, ["1m"])
    with pytest.raises(NotImplementedError):
        from_backtrader(T.Minutes, 7, ["1m"])


@pytest.mark.parametrize("text", [*TEXTS, "1Y"])
def test_to_backtrader_and_back(text: str) -> None:
    assert from_backtrader(*to_backtrader(text), offered=["1m", text]) == text


def test_the_grid_on_known_days() -> None:
    thursday = at(2024, 2, 29, 13, 37)
    assert floor_ms("5m", thursday) == at(2024, 2, 29, 13, 35)
    assert floor_ms("1d", thursday) == at(2024, 2, 29)
    assert floor_ms("1w", thursday) == at(2024, 2, 26)
    assert next_ms("1w", thursday) == at(2024, 3, 4)
    assert floor_ms("1M", thursday) == at(2024, 2, 1)
    assert next_ms("1M", thursday) == at(2024, 3, 1)
    assert floor_ms("3M", thursday) == at(2024, 1, 1)
    assert next_ms("1y", thursday) == at(2025, 1, 1)
    assert floor_ms("1m", -1) == -MINUTE_MS
    assert next_ms("1m", 0) == MINUTE_MS


def test_close_of_bars_off_the_grid() -> None:
    """Exchanges that count in another time zone: what opens at 16:00 on the last day closes so."""
    assert close_ms("1d", at(2024, 2, 28, 16)) == at(2024, 2, 29, 16)
    assert close_ms("1w", at(2024, 2, 29)) == at(2024, 3, 7)
    for month, last_day, next_last in ((1, 31, 29), (2, 29, 31), (3, 31, 30), (11, 30, 31)):
        assert close_ms("1M", at(2024, month, last_day, 16)) == at(2024, month + 1, next_last, 16)
        assert close_ms("1M", at(2024, month, 1, 8)) == at(2024, month + 1, 1, 8)
    assert close_ms("1y", at(2023, 12, 31, 16)) == at(2024, 12, 31, 16)


@given(st.sampled_from(TEXTS), in_calendar)
@example("1M", at(2000, 2, 29))
@example("1M", at(1900, 3, 1) - 1)
@example("1w", 4 * DAY_MS)
@example("1w", 4 * DAY_MS - 1)
def test_the_grid_like_the_calendar(text: str, ts_ms: int) -> None:
    frame = plain.Frame(text)
    assert floor_ms(text, ts_ms) == frame.floor(ts_ms)
    assert next_ms(text, ts_ms) == frame.next(ts_ms)
    assert close_ms(text, ts_ms) == frame.close(ts_ms)


@given(st.sampled_from(TEXTS), st.integers(0, at(2100, 1, 1)))
def test_the_grid_like_ccxt(text: str, ts_ms: int) -> None:
    assert floor_ms(text, ts_ms) == ccxt.Exchange.round_timeframe(text, ts_ms, ccxt.ROUND_DOWN)
    assert next_ms(text, ts_ms) == ccxt.Exchange.round_timeframe(text, ts_ms, ccxt.ROUND_UP)


@given(st.sampled_from(TEXTS), st.integers(-(10**20), 10**20))
def test_the_grid_at_any_time(text: str, ts_ms: int) -> None:
    open_ms = floor_ms(text, ts_ms)
    assert open_ms <= ts_ms < next_ms(text, ts_ms)
    assert floor_ms(text, open_ms) == open_ms
    assert close_ms(text, open_ms) == next_ms(text, ts_ms)
    assert floor_ms(text, next_ms(text, ts_ms)) == next_ms(text, ts_ms)


def test_nominal_lengths_order_timeframes() -> None:
    lengths = [parse(text).nominal_ms for text in ("1s", "1m", "1h", "1d", "1w", "1M", "3M", "1y")]
    assert lengths == sorted(lengths)
    assert parse("1M").nominal_ms == timeframes.MONTH_MS
    assert parse("1y").nominal_ms == timeframes.YEAR_MS

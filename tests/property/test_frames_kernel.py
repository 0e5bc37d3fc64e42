"""The compiled reader of klines beside a JSON parser: the same values, or None, whatever it is given."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt._frames import binance_kline
from reference.frames import binance_kline as plain

# Longer numbers are left to a JSON parser.
PRICE = st.decimals(0, 10**9, places=8, allow_nan=False).map(lambda number: f"{number:f}")
NAME = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_币", min_size=1, max_size=20)


@st.composite
def klines(draw):
    values = {"t": draw(st.integers(0, 2**52)), "s": draw(NAME), "i": draw(st.sampled_from(["1s", "1m", "1M"]))}
    values |= {"T": 1579482959999, "f": -1, "n": draw(st.integers(0, 10**9)), "x": draw(st.booleans()), "B": "0"}
    values |= {key: draw(PRICE) for key in "ohlcvqVQ"}
    names = draw(st.permutations(list(values)))
    event = {"e": "kline", "E": 1579482921215, "s": values["s"], "k": {name: values[name] for name in names}}
    return {"stream": "ethbtc@kline_1m", "data": event} if draw(st.booleans()) else event


def compact(message):
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


@given(klines())
def test_values_are_those_of_a_json_parser(message):
    text = compact(message)
    expected = plain(text)
    assert binance_kline(text) == (expected if text.isascii() else None)
    assert binance_kline(text.encode()) == binance_kline(text)


@given(klines(), st.data())
def test_a_frame_that_lacks_a_value_or_an_end_is_none_of_its_own(message, data):
    event = message.get("data", message)
    event["k"].pop(data.draw(st.sampled_from("tsixohlcv")))
    assert binance_kline(compact(message)) is None


@given(klines(), st.data())
def test_a_cut_frame_is_none(message, data):
    text = compact(message)
    assert binance_kline(text[: data.draw(st.integers(0, text.index('"k":{') + 5))]) is None
    inside = text.rindex("}", 0, len(text) - (2 if "stream" in message else 1))
    assert binance_kline(text[: data.draw(st.integers(0, inside))]) is None


@given(klines(), st.integers(0, 500), st.characters())
def test_a_garbled_frame_never_does_harm(message, at, character):
    text = compact(message)
    at %= len(text)
    read = binance_kline(text[:at] + character + text[at + 1 :])
    assert read is None or len(read) == 9


@given(st.text() | st.binary())
def test_anything_else_is_none(frame):
    assert binance_kline(frame) is None

"""The compiled reader of trades beside a JSON parser, and of the socket's bytes beside a plain split into frames."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt._frames import BinanceReader, binance_trade
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import Bar, Origin
from reference.frames import binance_extra as plain_extra
from reference.frames import binance_kline as plain_kline
from reference.frames import binance_trade as plain_trade

PRICE = st.decimals(0, 10**9, places=8, allow_nan=False).map(lambda number: f"{number:f}")
NAME = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_币", min_size=1, max_size=20)
MARKETS = ("BTCUSDT", "ETHUSDT")


@st.composite
def trades(draw, names=NAME):
    kind = draw(st.sampled_from(["trade", "aggTrade"]))
    values = {"s": draw(names), "p": draw(PRICE), "q": draw(PRICE), "T": draw(st.integers(0, 2**52))}
    values |= {"t" if kind == "trade" else "a": draw(st.integers(0, 2**70)), "m": draw(st.booleans()), "M": True}
    values |= {"X": "MARKET", "st": 1}
    for key in ("f", "l"):
        if kind == "aggTrade" and draw(st.integers(0, 9)):
            values[key] = draw(st.integers(0, 50))
    order = draw(st.permutations(list(values)))
    event = {"e": kind, "E": 1672515782136} | {name: values[name] for name in order}
    return {"stream": "bnbbtc@trade", "data": event} if draw(st.booleans()) else event


@st.composite
def klines(draw):
    values = {
        "t": draw(st.integers(0, 2**52)),
        "s": draw(st.sampled_from(MARKETS)),
        "i": "1m",
        "x": draw(st.booleans()),
    }
    values |= {key: draw(PRICE) for key in "ohlcv"}
    for key, value in (("n", st.integers(0, 2**52)), ("q", PRICE), ("V", PRICE), ("Q", PRICE), ("B", st.just("0"))):
        if draw(st.integers(0, 9)):
            values[key] = draw(value)
    values = {key: values[key] for key in draw(st.permutations(list(values)))}
    return {"e": "kline", "E": 1579482921215, "s": values["s"], "k": values}


def compact(message):
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


@given(trades())
def test_values_are_those_of_a_json_parser(message):
    text = compact(message)
    assert binance_trade(text) == (plain_trade(text) if text.isascii() else None)
    assert binance_trade(text.encode()) == binance_trade(text)


@given(trades(), st.data())
def test_a_frame_that_lacks_a_value_or_an_end_is_none_of_its_own(message, data):
    event = message.get("data", message)
    text = compact(message)
    assert binance_trade(text[: data.draw(st.integers(0, len(text) - (2 if "stream" in message else 1)))]) is None
    event.pop(data.draw(st.sampled_from(["s", "p", "q", "T", "m", "t" if event["e"] == "trade" else "a"])))
    assert binance_trade(compact(message)) is None


@given(trades(), st.integers(0, 500), st.characters())
def test_a_garbled_frame_never_does_harm(message, at, character):
    text = compact(message)
    at %= len(text)
    read = binance_trade(text[:at] + character + text[at + 1 :])
    assert read is None or len(read) == 7


@given(st.text() | st.binary())
def test_anything_else_is_none(frame):
    assert binance_trade(frame) is None


def packed(head, payload, mask=b""):
    """A frame of RFC 6455."""
    flag = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        length = bytes((flag | size,))
    elif size < 65_536:
        length = bytes((flag | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((flag | 127,)) + size.to_bytes(8, "big")
    return bytes((head,)) + length + mask + payload


# Whole text, begun text, its end, binary, compressed text, close, ping, pong.
OTHERS = st.builds(
    packed,
    st.sampled_from([0x81, 0x01, 0x80, 0x82, 0xC1, 0x88, 0x89, 0x8A]),
    st.binary(max_size=200) | st.binary(min_size=126, max_size=130) | st.just(b"{" * 70_000),
    st.sampled_from([b"", b"mask"]),
)
EVENTS = st.one_of(klines(), trades(st.sampled_from([*MARKETS, "BNBUSDT"]))).map(compact)
STREAM = st.lists(EVENTS | OTHERS, max_size=8)


class Inner:
    """Stands for aiohttp's reader."""

    def __init__(self, failed=False):
        self.rest = []
        self.failed = failed
        self.ended = False

    def feed_data(self, chunk):
        self.rest.append(chunk)
        return self.failed, b""

    def feed_eof(self):
        self.ended = True


class Told:
    """Hears what a subscription hears."""

    def __init__(self):
        self.bars = []
        self.rows = []

    def frame(self, bar, closed, now_s):
        assert type(bar) is Bar
        self.bars.append((*bar, closed))

    def trades(self, trades, source, now_s):
        assert source == "source"
        assert all(type(trade) is Trade for trade in trades)
        self.rows += [tuple(trade) for trade in trades]


@given(STREAM, st.data())
def test_a_stream_is_split_into_what_is_known_and_the_rest_byte_by_byte(frames, data):
    told = {name: Told() for name in MARKETS}
    inner = Inner()
    wide = data.draw(st.sets(st.sampled_from(MARKETS)))
    names = {f"{name} 1m": told[name] for name in MARKETS if name not in wide}
    wide_names = {f"{name} 1m": told[name] for name in wide}
    reader = BinanceReader(names, wide_names, told, "source", Bar, Trade, Origin.WS)
    assert reader.before(inner) is reader
    expected = {name: Told() for name in MARKETS}
    left, stream = b"", b""
    for each in frames:
        raw = each if isinstance(each, bytes) else packed(0x81, each.encode())
        stream += raw
        kline = plain_kline(each) if isinstance(each, str) else None
        trade = plain_trade(each) if isinstance(each, str) else None
        if kline is not None:
            extra = plain_extra(each) if kline[0] in wide else ()
            expected[kline[0]].bars.append((*kline[2:8], Origin.WS, extra, kline[8]))
        elif trade is not None and trade[0] in told:
            expected[trade[0]].rows.append((*trade[1:], 1))
        else:
            left += raw
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        assert reader.feed_data(stream[begin:end]) == (False, b"")
    assert b"".join(inner.rest) == left
    reader.feed_eof()
    assert inner.ended
    for name in MARKETS:
        assert (told[name].bars, told[name].rows) == (expected[name].bars, expected[name].rows)


def test_a_stream_that_is_no_websocket_is_told():
    reader = BinanceReader({}, {}, {}, None, Bar, Trade, Origin.WS).before(Inner(failed=True))
    assert reader.feed_data(packed(0x81, b"hello")) == (True, b"")


def test_a_muted_reader_takes_nothing():
    text = '{"e":"trade","E":1,"s":"BTCUSDT","t":1,"p":"1.0","q":"1.0","T":1,"m":true,"M":true}'
    told, inner = Told(), Inner()
    reader = BinanceReader({}, {}, {"BTCUSDT": told}, "source", Bar, Trade, Origin.WS)
    reader.before(inner)
    reader.feed_data(packed(0x81, text.encode()))
    reader.mute()
    reader.feed_data(packed(0x81, text.encode()))
    assert len(told.rows) == 1
    assert inner.rest == [packed(0x81, text.encode())]

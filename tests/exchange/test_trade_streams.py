"""Trades through ccxt's real class from a simulated exchange: each once, in order, whatever happens to the sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.market.frames import DIALECTS, Trade
from ccxtbt.market.handover import Bar
from ccxtbt.market.streams import Streams
from ccxtbt.sim.binance_limits import Limits
from simulated import BTC, ETH
from waiting import wait_until

SPEED = 20
# Sockets whose death is noticed soon, and as many new ones a second as the test likes.
QUICK = replace(facts_of("binance"), ping_s=0.4, connects_per_s=50.0)
FIVE = [replace(BTC, symbol=f"C{i}USDT", base=f"C{i}") for i in range(5)]


class Ear:
    """Hears trades and bars."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.heard: list[Trade] = []
        self.frames = 0
        self.bars: list[Bar] = []

    def up(self) -> None:
        self.events.append("up")

    def down(self, reason: str) -> None:
        self.events.append("down")

    def trades(self, trades: list[Trade]) -> None:
        self.heard += trades

    def frame(self, bar: Bar, closed: bool) -> None:
        self.frames += 1
        self.bars.append(bar)

    def refused(self, error: Exception) -> None:
        self.events.append("refused")


class Client:
    """A connection with streams, driven from the test's thread."""

    def __init__(self, server: Any, facts: Any, dialects: Any) -> None:
        clock = Clock(rate=server.speed)
        self.connection = Connection(Account("binance", endpoint=server.url), clock=clock, facts=facts)
        self.connection.start()
        self.streams = Streams(self.connection, dialects)

    def do(self, name: str, *args: Any) -> None:
        async def act() -> None:
            getattr(self.streams, name)(*args)

        self.connection.call(act)


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    opened: list[Client] = []

    def begin(server: Any, facts: Any = QUICK, dialects: Any = DIALECTS) -> Client:
        opened.append(Client(server, facts, dialects))
        return opened[-1]

    yield begin
    for each in opened:
        each.connection.stop()


def happened(server: Any, symbol: str, first: Trade, last: Trade) -> list[Trade]:
    """What the simulated market traded from one trade to another."""

    def ask() -> list[Trade]:
        market = server.exchange.markets[symbol]
        tick, step = market.spec.tick_size, market.spec.step_size
        rows = market.trades(from_id=int(first.id), limit=100_000, now_ms=last.ts_ms)
        return [
            Trade(
                str(row.id),
                row.ts_ms,
                float(row.price_ticks * tick),
                float(row.qty_steps * step),
                "sell" if row.buyer_is_maker else "buy",
            )
            for row in rows
            if row.id <= int(last.id)
        ]

    return server.call(ask)


def test_each_trade_comes_once_and_in_order(simulator, client):
    server = simulator([BTC, ETH], speed=SPEED)
    ears = {"BTC/USDT": Ear(), "ETH/USDT": Ear()}
    streams = client(server)
    for symbol, ear in ears.items():
        streams.do("subscribe_trades", symbol, ear)
    wait_until(lambda: all(len(ear.heard) > 200 for ear in ears.values()))
    for symbol, ear in ears.items():
        heard = list(ear.heard)
        assert ear.events == ["up"]
        assert heard == happened(server, symbol.replace("/", ""), heard[0], heard[-1])
    assert server.connects == 1


@pytest.mark.parametrize("replaced", [False, True], ids=["one socket", "replaced sockets"])
def test_what_ccxts_own_parser_reads_comes_once_and_in_order_too(simulator, client, replaced):
    server = simulator([BTC, ETH], speed=SPEED, quiet_bars="flat")
    trades = {"BTC/USDT": Ear(), "ETH/USDT": Ear()}
    bars = {symbol: Ear() for symbol in trades}
    streams = client(server, replace(QUICK, socket_age_s=30.0) if replaced else QUICK, dialects={})
    for symbol, ear in trades.items():
        streams.do("subscribe_trades", symbol, ear)
    for symbol, ear in bars.items():
        streams.do("subscribe", symbol, "1s", ear)
    if replaced:
        wait_until(lambda: server.connects >= 4, limit_s=30)
    wait_until(lambda: all(len(ear.heard) > 200 for ear in trades.values()))
    wait_until(lambda: all(len({bar.ts_ms for bar in ear.bars}) > 50 for ear in bars.values()))
    for symbol, ear in trades.items():
        heard = list(ear.heard)
        assert ear.events == ["up"]
        assert heard == happened(server, symbol.replace("/", ""), heard[0], heard[-1])
    for ear in bars.values():
        seen = list(ear.bars)
        assert ear.events == ["up"]
        opens = [bar.ts_ms for bar in seen]
        # While two sockets live, the newer one may be a bar ahead for a moment.
        assert replaced or opens == sorted(opens)
        assert sorted(set(opens)) == list(range(min(opens), max(opens) + 1, 1_000))
    if not replaced:
        assert server.connects == 1


def test_no_trade_is_lost_or_told_twice_where_the_socket_is_replaced(simulator, client):
    server = simulator([BTC], speed=SPEED, limits=Limits(ws_age_s=60))
    ear = Ear()
    client(server, replace(QUICK, socket_age_s=30.0)).do("subscribe_trades", "BTC/USDT", ear)
    wait_until(lambda: server.connects >= 4, limit_s=30)
    seen = len(ear.heard)
    wait_until(lambda: len(ear.heard) > seen + 50)
    heard = list(ear.heard)
    assert ear.events == ["up"]
    assert heard == happened(server, "BTCUSDT", heard[0], heard[-1])


def test_a_break_is_told_and_trades_go_on(simulator, client):
    server = simulator([BTC], speed=SPEED)
    ear = Ear()
    client(server, replace(QUICK, ping_s=30.0)).do("subscribe_trades", "BTC/USDT", ear)
    wait_until(lambda: len(ear.heard) > 20)
    began_s = time.monotonic()
    assert server.abort_connections() == 1
    # The socket's own end is the news, not the silence of a ping that nobody answers.
    wait_until(lambda: "down" in ear.events, limit_s=10)
    assert time.monotonic() - began_s < 5
    wait_until(lambda: ear.events == ["up", "down", "up"])
    seen = len(ear.heard)
    wait_until(lambda: len(ear.heard) > seen + 20)
    ids = [int(trade.id) for trade in ear.heard]
    assert ids == sorted(set(ids))


def test_bars_and_trades_of_five_symbols_share_one_socket_and_one_message_each(simulator, client):
    server = simulator(FIVE, speed=SPEED)
    ears = {(spec.symbol, kind): Ear() for spec in FIVE for kind in ("trades", "bars")}
    streams = client(server)

    async def subscribe() -> None:
        for (symbol, kind), ear in ears.items():
            name = symbol.replace("USDT", "/USDT")
            if kind == "bars":
                streams.streams.subscribe(name, "1s", ear)
            else:
                streams.streams.subscribe_trades(name, ear)

    streams.connection.call(subscribe)
    wait_until(lambda: all(ear.heard or ear.frames for ear in ears.values()))
    assert server.connects == 1
    (connection,) = server.connections.values()
    named = {f"{symbol.lower()}@{'aggTrade' if kind == 'trades' else 'kline_1s'}" for symbol, kind in ears}
    assert named <= set(connection.streams)


def test_listeners_share_a_subscription_until_the_last_one_leaves(simulator, client):
    server = simulator([BTC], speed=SPEED)
    first, second, bars = Ear(), Ear(), Ear()
    streams = client(server)
    streams.do("subscribe", "BTC/USDT", "1s", bars)
    streams.do("subscribe_trades", "BTC/USDT", first)
    wait_until(lambda: bool(first.heard))
    streams.do("subscribe_trades", "BTC/USDT", second)
    wait_until(lambda: len(second.heard) > 20)
    assert second.heard == first.heard[-len(second.heard) :]
    streams.do("unsubscribe", first)
    left = len(first.heard)
    seen = len(second.heard)
    wait_until(lambda: len(second.heard) > seen + 20)
    assert len(first.heard) == left
    (connection,) = server.connections.values()
    assert "btcusdt@aggTrade" in connection.streams
    streams.do("unsubscribe", second)
    wait_until(lambda: "btcusdt@aggTrade" not in connection.streams)
    frames = bars.frames
    wait_until(lambda: bars.frames > frames + 5)
    assert bars.events == ["up"]
    # Asked for again, they come again.
    streams.do("subscribe_trades", "BTC/USDT", first)
    wait_until(lambda: len(first.heard) > left + 20)
    assert bars.events == ["up"]


def test_what_nobody_listens_to_any_more_leaves_no_socket_behind(simulator, client):
    server = simulator([BTC], speed=SPEED)
    ear = Ear()
    streams = client(server)
    for _ in range(2):
        seen = len(ear.heard)
        streams.do("subscribe_trades", "BTC/USDT", ear)
        wait_until(lambda seen=seen: len(ear.heard) > seen + 20)
        streams.do("unsubscribe", ear)
        wait_until(lambda: not server.connections)
    assert server.connects == 2

"""Hundreds of subscriptions at an exchange of its own process that breaks in every way: all come back, in time.

In time is what the exchange's limits allow: so many connections a second, so many messages a second on each, so many
subscriptions in a message. A storm is more than two connections a shard and break.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from apart import Apart
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.exchange.facts import Facts
from ccxtbt.market.streams import BACKOFF_MAX_S, BACKOFF_S, GATHER_S, LOOK_S, MISSED_PINGS, STEADY_S, Streams
from ccxtbt.sim.spec import Spec
from listening import Ear, all_live
from waiting import wait_until

logger = logging.getLogger(__name__)

SPEED = 5
TIMEFRAMES = ("1s", "1m", "5m", "15m", "1h")
# A forming bar is pushed every 2 s of the exchange's time, and the next trade comes within a second or two.
FRAME_S = 4.0 / SPEED
# What handshakes, and other programs on this machine, may add: tests run four at a time.
MACHINE_S = 6.0
LIMIT_S = 60.0


def markets(count: int) -> list[Spec]:
    """Markets without quiet minutes: a silent stream is a broken one."""
    busy = Spec(symbol="CUSDT", base="C", quote="USDT", trades_per_minute=120.0, quiet=0)
    return [replace(busy, symbol=f"C{i}USDT", base=f"C{i}") for i in range(count)]


@dataclass
class Chaos:
    """Subscriptions over several shards, and what breaks them."""

    exchange: Apart
    facts: Facts
    ears: dict[tuple[str, str], Ear]
    # Breaks in a row without a steady time between them: each doubles what a shard waits before it connects.
    in_a_row: int = 0
    breaks: int = 0

    @property
    def shards(self) -> int:
        return math.ceil(len(self.ears) / self.facts.streams_per_socket)

    @property
    def allowed_s(self) -> float:
        """How long it takes to connect and subscribe anew, at the limits, once all is known to be broken."""
        messages = math.ceil(self.facts.streams_per_socket / self.facts.streams_per_request)
        count, window_ms = self.facts.socket_messages
        connecting_s = self.shards / self.facts.connects_per_s
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (self.in_a_row - 1))
        return backoff_s + GATHER_S + connecting_s + messages * window_ms / count / 1000 + FRAME_S + MACHINE_S

    @property
    def unnoticed_s(self) -> float:
        """How long a connection that says nothing may count as alive."""
        return (MISSED_PINGS + 1) * self.facts.ping_s + LOOK_S + MACHINE_S

    def down(self) -> bool:
        """Whether all have heard of this break; the first may be back by then."""
        return all(ear.events.count("down") == self.breaks for ear in self.ears.values())

    def recover(self, what: str, before: int, allowed_s: float) -> None:
        """See all come back in time, without a storm."""
        took_s = wait_until(all_live(self.ears), LIMIT_S)
        made = self.exchange.connects - before
        logger.info("%s: all live after %.1f s of %.1f, %d connections", what, took_s, allowed_s, made)
        assert took_s <= allowed_s, what
        assert made <= 2 * self.shards, what

    def close(self) -> None:
        self.break_all("close", MACHINE_S)

    def abort(self) -> None:
        self.break_all("abort", MACHINE_S)

    def stall(self) -> None:
        """Leave every connection half open; new ones are well."""
        self.break_all("stall", self.unnoticed_s)

    def break_all(self, order: str, noticed_s: float) -> None:
        before = self.exchange.connects
        # Those that were left half open before are still there for the exchange.
        assert self.exchange.order(order)["count"] >= self.shards
        assert wait_until(self.down, LIMIT_S) <= noticed_s, order
        self.recover(order, before, self.allowed_s)

    def stall_network(self) -> None:
        """Let nothing through until every connection counts as broken: new ones hang meanwhile."""
        before = self.exchange.connects
        self.exchange.freeze()
        try:
            assert wait_until(self.down, LIMIT_S) <= self.unnoticed_s
        finally:
            self.exchange.thaw()
        self.recover("stalled network", before, self.allowed_s)

    def restart(self) -> None:
        """End the exchange as a crash does, and start it again."""
        began_s = time.monotonic()
        self.exchange.kill()
        wait_until(self.down, LIMIT_S)
        self.exchange.start()
        # Who was refused meanwhile waits at most for twice as long as the exchange was away, beside its first wait.
        away_s = time.monotonic() - began_s
        self.recover("restart", 0, self.allowed_s + 2 * away_s)

    def survive(self, *breaks: Callable[[Chaos], None], steady_s: float) -> None:
        """Live through breaks, with so much time between them."""
        wait_until(all_live(self.ears), LIMIT_S)
        assert self.exchange.connects == self.shards
        for number, break_it in enumerate(breaks, 1):
            # The quiet before the next break is part of what is tried.
            time.sleep(steady_s)
            self.breaks = number
            self.in_a_row = 1 if steady_s > STEADY_S else number
            break_it(self)
            # Connections that were replaced, or came too late, end too.
            wait_until(lambda: self.exchange.order("status")["connections"] == self.shards, LIMIT_S)
        # One more a connection: the name that ccxt puts at the end of the address.
        assert self.exchange.order("status")["streams"] == len(self.ears) + self.shards
        for ear in self.ears.values():
            assert ear.events == ["up", *["down", "up"] * len(breaks)]


@pytest.fixture
def begin() -> Iterator[Callable[..., Chaos]]:
    """Subscribe to markets of an exchange in a process of its own; both end with the test."""
    ends: list[Callable[[], Any]] = []

    def start(subscriptions: int, facts: Facts) -> Chaos:
        specs = markets(subscriptions // len(TIMEFRAMES))
        exchange = Apart(specs, speed=SPEED).start()
        ends.append(exchange.kill)
        connection = Connection(Account("binance", endpoint=exchange.url), clock=Clock(rate=SPEED), facts=facts)
        ends.append(connection.stop)
        connection.start()
        streams = Streams(connection)
        keys = itertools.product([f"{spec.base}/USDT" for spec in specs], TIMEFRAMES)
        ears = {key: Ear() for key in keys}

        async def subscribe() -> None:
            for (symbol, timeframe), ear in ears.items():
                streams.subscribe(symbol, timeframe, ear)

        connection.call(subscribe)
        return Chaos(exchange, facts, ears)

    yield start
    for end in reversed(ends):
        end()


def test_sixty_subscriptions_survive_chaos(begin):
    facts = replace(facts_of("binance"), streams_per_socket=20, streams_per_request=5, connects_per_s=10.0, ping_s=0.6)
    begin(60, facts).survive(Chaos.stall_network, Chaos.restart, Chaos.close, steady_s=0)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_five_hundred_subscriptions_survive_chaos(begin):
    # Pings so often that a dead connection is noticed before its 1s bars, five times as fast here, fall silent.
    facts = replace(facts_of("binance"), streams_per_socket=50, streams_per_request=10, ping_s=1.6)
    breaks = (Chaos.restart, Chaos.stall_network, Chaos.stall, Chaos.close, Chaos.abort)
    begin(500, facts).survive(*breaks, steady_s=STEADY_S + 1)

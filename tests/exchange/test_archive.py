"""The archive test: whatever the network does, each closed bar of the exchange comes once, in order, unchanged.

Faults are keyed to the n-th frame of a stream and to the n-th request, and are drawn from a seed; how sockets
interleave differs from run to run, so that what must hold is asserted, and what happened is told when it does not.
"""

import itertools
import random
from collections import Counter
from dataclasses import dataclass, replace

import backtrader as bt
import pytest

from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.sim.spec import Spec
from watching import Watcher, ago, differences, run, stamp_ms, store_of, truth

HOUR_MS = 3_600_000
KLINES, TRADES = "/api/v3/klines", "/api/v3/aggTrades"
TIMEFRAMES = {"1s": (bt.TimeFrame.Seconds, 1), "1m": (bt.TimeFrame.Minutes, 1)}
# One of the symbols has its closed bars amended, and nothing else: what a correction is must be told apart.
AMENDED = "S00"
# A socket is found dead after two and a half pings: in a second and a quarter of this machine.
FACTS = replace(facts_of("binance"), ping_s=0.5, connects_per_s=20.0)
SKEWS_S = (0.0, 3.0, -3.0)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    symbols: int
    faults: int
    troubled_s: float
    speed: float
    breaks: int
    # Up to which frame of a stream and which request of a market faults are spread.
    reach: int
    limit_s: float


SHORT = Size(symbols=20, faults=100, troubled_s=150, speed=10, breaks=4, reach=40, limit_s=100)
LONG = Size(symbols=60, faults=200, troubled_s=240, speed=5, breaks=8, reach=60, limit_s=280)
HOUR = Size(symbols=20, faults=200, troubled_s=3_480, speed=1, breaks=20, reach=800, limit_s=3_900)


def specs(size: Size) -> list[Spec]:
    """Markets from lively to so quiet that many seconds have no bar."""
    return [
        Spec(symbol=f"S{i:02}USDT", base=f"S{i:02}", quote="USDT", price=10 * (i + 1), trades_per_minute=rate)
        for i, rate in zip(range(size.symbols), itertools.cycle((300.0, 120.0, 60.0, 20.0)), strict=False)
    ]


def source_of(i: int) -> str:
    """Most bars come from the exchange's stream of bars; some from its trades, some from polls."""
    return {5: "trades", 7: "poll"}.get(i % 10, "ohlcv")


def closed(event) -> bool:
    return event["k"]["x"]


def amended(event):
    return {**event, "k": {**event["k"], "v": "999999.00000000"}}


def disturb(server, size: Size, seed: int) -> None:
    """Put the faults of a seed in force."""
    draw, faults = random.Random(seed), server.faults
    names = [spec.symbol for spec in specs(size)]
    streams = [f"{name.lower()}@kline_{text}" for name in names if not name.startswith(AMENDED) for text in TIMEFRAMES]
    trades = [f"{name.lower()}@aggTrade" for i, name in enumerate(names) if source_of(i) == "trades"]
    faults.amend(0.5, amended, stream=f"{AMENDED.lower()}usdt@kline_1s", where=closed, nth=2, times=0)
    of_frames = [
        lambda which: faults.lose(**which),
        lambda which: faults.lose(**which, where=closed),
        lambda which: faults.duplicate(draw.randint(1, 3), **which),
        lambda which: faults.delay(draw.choice((0.5, 1.5, 4.0, 20.0)), **which),
        lambda which: faults.delay(draw.choice((0.5, 1.5, 4.0, 20.0)), **which, where=closed),
        lambda which: faults.reorder(draw.randint(1, 3), **which),
        lambda which: faults.garble(**which),
    ]
    for i in range(5 * size.faults):
        # A minute's stream says little until it closes; a second's closes each time.
        stream = draw.choice(streams)
        draw.choice(of_frames)(
            {"stream": stream, "nth": draw.randint(1, size.reach // 2), "times": draw.randint(1, 3 if i % 4 else 6)}
        )
    plain = [faults.lose, faults.duplicate, faults.garble, faults.reorder]
    for stream in trades * (size.faults // 20):
        draw.choice(plain)(stream=stream, nth=draw.randint(1, 5 * size.reach), times=draw.randint(1, 20))
    lively = [f"{name.lower()}@kline_1s" for name in names[4::4]]
    for i in range(size.breaks):
        (faults.close, faults.abort)[i % 2](stream=draw.choice(lively), nth=draw.randint(8, size.reach))
    faults.accept_and_close(nth=2)
    faults.refuse_connect(nth=4)
    of_requests = [
        lambda which: faults.rate_limited(1, **which),
        lambda which: faults.banned(2, **which),
        lambda which: faults.server_error(500, **which),
        lambda which: faults.server_error(503, taken=True, **which),
        lambda which: faults.server_error(504, **which),
        lambda which: faults.html(**which),
        lambda which: faults.html(status=403, **which),
        lambda which: faults.empty(**which),
        lambda which: faults.truncate(0.5, **which),
        lambda which: faults.truncate(0.7, cut=False, **which),
        lambda which: faults.drop_answer(**which),
        lambda which: faults.delay_answer(draw.choice((1.0, 5.0)), **which),
        lambda which: faults.delay_request(draw.choice((1.0, 5.0)), **which),
    ]
    # A replica may be behind by less than five seconds, and the clock is wrong by three of them already.
    for path in (KLINES, TRADES):
        faults.lag(1.9, path=path, times=0)
    history = 2 * size.symbols
    for cause in of_requests:
        cause({"path": TRADES, "nth": draw.randint(1, size.reach)})
    for cause in of_requests * (1 + size.faults // 100):
        cause({"path": KLINES, "nth": history + draw.randint(0, size.reach * size.symbols // 5)})


class Archivist(Watcher):
    """Looks only at the datas that have moved: there are many."""

    def next(self):
        for data in self.datas:
            bars = self.seen[data]
            if len(data) != len(bars):
                assert len(data) == len(bars) + 1
                bars.append((stamp_ms(data), data.open[0], data.high[0], data.low[0], data.close[0], data.volume[0]))
        if self.p.act is not None:
            self.p.act(self)
        self.look()


def assert_legal(states: list[str]) -> None:
    """States begin with DELAYED, never repeat, and no break is over before what was missed has come."""
    assert states[0] == "DELAYED", states
    for before, after in itertools.pairwise(states):
        assert before != after, states
        assert (before, after) != ("CONNBROKEN", "LIVE"), states
    assert set(states) <= {"DELAYED", "LIVE", "CONNBROKEN"}, states


def prove(simulator, size: Size, seed: int) -> None:
    print(f"seed {seed}")
    server = simulator(specs(size), history_ms=HOUR_MS, speed=size.speed, seed=seed)
    skew_s = SKEWS_S[seed % len(SKEWS_S)]
    server.faults.skew(skew_s, times=0)
    disturb(server, size, seed)
    store = store_of(server, facts=FACTS, config={"timeout": 1_000})
    feeds = {
        store.getdata(
            dataname=f"{spec.base}/USDT",
            name=f"{spec.base} {text}",
            fromdate=ago(server, minutes=2),
            source=source_of(i),
            timeframe=timeframe,
            compression=compression,
        ): text
        for i, spec in enumerate(specs(size))
        for text, (timeframe, compression) in TIMEFRAMES.items()
    }
    begin_ms = server.clock.now_ms()
    calm_ms = begin_ms + size.troubled_s * 1_000
    done = Counter()

    def act(watcher):
        now_ms = server.clock.now_ms()
        if now_ms > begin_ms + (calm_ms - begin_ms) / 4 and not done["stall"]:
            # Half open: the connections stay, and nothing comes or is heard any more.
            done["stall"] += server.stall_connections()
        if now_ms > (begin_ms + calm_ms) / 2 and not done["restart"]:
            done["restart"] += 1
            server.restart(5.0)
        if now_ms > calm_ms and not done["calm"]:
            done["calm"] += 1
            server.faults.clear()

    def settled(watcher):
        # The last minute that began in trouble is over, its bars have come, and all is live.
        end_ms = calm_ms + 60_000
        return (
            done["calm"]
            and server.clock.now_ms() > end_ms + 10_000
            and all(states[-1:] == ["LIVE"] for states in watcher.states.values())
            and all(seen and seen[-1][0] >= end_ms - 60_000 for seen in watcher.seen.values())
        )

    cerebro_run = run(store, *feeds, until=settled, act=act, strategy=Archivist, limit_s=size.limit_s)
    story = "\n".join(
        f"{fired.now_ms - begin_ms:>8} ms {fired.action} #{fired.nth} {fired.what}" for fired in server.faults.log
    )
    fired = [fired for fired in server.faults.log if fired.action not in {"request skew", "request lag"}]
    wrong = []
    for feed, text in feeds.items():
        seen = cerebro_run.seen[feed]
        expected = truth(server, feed, text, feed._utc_ms(feed.p.fromdate), int(seen[-1][0]) - 1)
        if seen != expected:
            wrong.append(f"{feed._name}: {differences(seen, expected)}; {cerebro_run.states[feed]}; {feed.counts}")
        assert_legal(cerebro_run.states[feed])
        # Only what was amended on purpose came again otherwise.
        assert not feed.corrections or feed._name.startswith(AMENDED), (feed._name, cerebro_run.messages)
    assert not wrong, f"seed {seed}\n{story}\n" + "\n".join(wrong)
    assert len(fired) >= size.faults, Counter(each.action for each in fired)
    assert {"frame close", "frame abort"} & {each.action for each in fired}
    assert done["stall"]
    assert done["restart"]
    assert any(feed.corrections for feed in feeds)
    print(
        sum(map(len, cerebro_run.seen.values())), "bars,", len(fired), "faults", Counter(each.action for each in fired)
    )


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_bar_of_many_symbols_comes_through_every_trouble(simulator, seed):
    prove(simulator, SHORT, seed)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(20))
def test_more_symbols_more_trouble(simulator, seed):
    prove(simulator, LONG, seed)


@pytest.mark.soak
@pytest.mark.timeout(4_200)
def test_an_hour_of_trouble(simulator):
    prove(simulator, HOUR, seed=60)

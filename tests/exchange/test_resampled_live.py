"""Data that backtrader resamples from a live feed: their bars close by their own data."""

import backtrader as bt

from simulated import BTC, ETH
from watching import Watcher, ago, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}


def five(bars):
    """Bars of 5 s of bars of 1 s, by their closes; the last may not be over."""
    made = {}
    for stamp, opened, high, low, close, volume in bars:
        end = -(-stamp // 5_000) * 5_000
        kept = made.setdefault(end, [opened, high, low, close, 0.0])
        kept[1], kept[2], kept[3] = max(kept[1], high), min(kept[2], low), close
        kept[4] += volume
    return [(stamp, *map(float, values)) for stamp, values in made.items()]


def run_resampled(server, beside):
    store = store_of(server)
    start = ago(server, minutes=1)
    cerebro = bt.Cerebro(stdstats=False)
    fine = store.getdata(dataname="BTC/USDT", fromdate=start, **SECONDS)
    if beside:
        cerebro.adddata(store.getdata(dataname="ETH/USDT", fromdate=start, **SECONDS))
    else:
        cerebro.adddata(fine)
    cerebro.resampledata(fine, timeframe=bt.TimeFrame.Seconds, compression=5)
    # A pass without a bar follows each bar: in such a pass backtrader asks resamplers whether time has closed theirs.
    cerebro.addstrategy(
        Watcher, until=lambda w: fine.origins.get("ws", 0) >= 40, act=lambda w: store.put_notification("")
    )
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    assert not watcher.timed_out
    return watcher, fine


def test_a_clone_has_the_bars_of_its_data(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=5)
    watcher, fine = run_resampled(server, beside=False)
    expected = five(watcher.seen[fine])
    seen = watcher.seen[watcher.datas[1]]
    assert len(seen) >= len(expected) - 1
    assert [bar[0] for bar in seen] == [bar[0] for bar in expected[: len(seen)]]
    assert seen == expected[: len(seen)]


def test_a_resampled_feed_beside_another_market(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=5)
    watcher, fine = run_resampled(server, beside=True)
    seen = watcher.seen[fine]
    market = server.exchange.markets["BTCUSDT"]
    first_ms, last_ms = fine._utc_ms(fine.p.fromdate), int(seen[-1][0]) - 1
    rows = market.klines("1s", start_ms=first_ms, end_ms=last_ms, limit=1_000, now_ms=server.clock.now_ms())
    assert seen == five([(row[0] + 1_000, *map(float, row[1:6])) for row in rows])

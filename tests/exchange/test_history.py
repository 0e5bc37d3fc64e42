"""History of any length through ccxt's real class, and what the archive spares of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import subprocess
import sys
from urllib.parse import parse_qs
from urllib.request import urlopen

import backtrader as bt
import numpy as np
import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ccxtbt import CCXTFeed, CCXTFeedWithVolumes
from ccxtbt.exchange.exchanges import TABLE
from ccxtbt.market.archive import Archive
from ccxtbt.market.timeframes import parse
from ccxtbt.sim.clock import SimClock
from ccxtbt.sim.market import Replay
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.server import SimServer
from ccxtbt.sim.spec import Spec
from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, store_of

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
# A market whose months are quickly made.
SLOW = dataclasses.replace(BTC, trades_per_minute=0.2)


def klines(server: SimServer) -> list[dict[str, str]]:
    """The parameters of the requests for bars so far."""
    return [
        {name: values[0] for name, values in parse_qs(request.params).items()}
        for request in list(server.requests)
        if request.path == "/api/v3/klines"
    ]


def load(server: SimServer, archive=None, timeframe="1m", **arguments):
    """Run over a historical feed of a store of its own; return the feed, what was seen, and what was asked for."""
    asked = len(klines(server))
    store = store_of(server, archive=archive, stamp="close", **arguments.pop("store", {}))
    feed = store.getdata(dataname="BTC/USDT", timeframe=timeframe, historical=True, **arguments)
    watcher = run(store, feed, until=lambda w: False)
    return feed, watcher, klines(server)[asked:]


@pytest.mark.parametrize(("timeframe", "bars"), [("1M", 4), ("1w", 18), ("3d", 42), ("1d", 127)])
def test_long_bars(simulator, timeframe, bars):
    server = simulator((SLOW,), history_ms=127 * DAY_MS)
    feed, watcher, asked = load(server, timeframe=timeframe, fromdate=ago(server, days=3_000))
    assert_equals_exchange(server, watcher, feed, timeframe, 0)
    # The one that is forming is not among them; the first holds what there is of it.
    assert len(watcher.seen[feed]) in (bars, bars + 1)
    assert len(asked) <= 6


def test_years_before_the_market_began_cost_a_few_requests(simulator):
    server = simulator((BTC,), history_ms=50 * HOUR_MS, quiet_bars="flat")
    feed, watcher, asked = load(server, fromdate=ago(server, days=2_500), todate=ago(server, minutes=10))
    assert_equals_exchange(server, watcher, feed, "1m", 0)
    assert len(watcher.seen[feed]) in range(2_990, 2_992)
    assert len(asked) <= 6


def test_a_market_that_was_silent_for_days_and_has_ended():
    trades = [
        (1_700_000_000_000 + day * DAY_MS + minute * MINUTE_MS, "2.5", str(minute + 1), False)
        for day in (0, 1, 8, 9, 20)
        for minute in range(0, 1_440, 3)
    ]
    spec = Spec.of_trades("BTCUSDT", "BTC", "USDT", trades)
    start_ms = trades[-1][0] + 5 * DAY_MS
    market = Replay(spec, trades, start_ms=start_ms)
    with SimServer(Exchange({"BTCUSDT": market}, SimClock(start_ms, 1.0))) as server:
        feed, watcher, asked = load(server, fromdate=ago(server, days=40), todate=ago(server, days=1))
        assert len(watcher.seen[feed]) == len(trades)
        assert_equals_exchange(server, watcher, feed, "1m", 0)
        # The 39 days are 57 pages.
        assert len(asked) <= 15


def test_a_page_that_fails_is_asked_for_again_alone(simulator):
    server = simulator((BTC,), history_ms=200 * HOUR_MS, quiet_bars="flat")
    server.faults.server_error(502, path="/api/v3/klines", nth=4)
    feed, watcher, asked = load(server, fromdate=ago(server, minutes=9_000), todate=ago(server, minutes=10))
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    since = [each["startTime"] for each in asked]
    assert len(since) == 10
    assert len(set(since)) == 9


def test_no_more_requests_are_under_way_than_the_facts_allow(simulator):
    # Quickly made, so that the delay is what takes time.
    specs = (SLOW, dataclasses.replace(ETH, trades_per_minute=0.2))
    server = simulator(specs, history_ms=180 * HOUR_MS, quiet_bars="flat")
    server.faults.delay_answer(0.1, path="/api/v3/klines", times=0)
    store = store_of(server, facts=dataclasses.replace(TABLE["binance"], history_requests=3))
    # What has only just closed is asked for twice, which is not what this counts.
    span = {"fromdate": ago(server, minutes=9_000), "todate": ago(server, minutes=10)}
    feeds = [store.getdata(dataname=name, historical=True, **span, **MINUTES) for name in ("BTC/USDT", "ETH/USDT")]
    watcher = run(store, *feeds, until=lambda w: False)
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    answered_ms = [request.at_ms for request in server.requests if request.path == "/api/v3/klines"]
    assert len(answered_ms) == 18
    # Three at once, of which each takes so long: the third after any one is answered later by as much.
    assert min(later - earlier for earlier, later in zip(answered_ms, answered_ms[3:], strict=False)) >= 99


def test_progress_is_heard_of_after_each_page(simulator):
    server = simulator((BTC,), history_ms=200 * HOUR_MS)
    heard = []
    span = {"fromdate": ago(server, minutes=9_000), "todate": ago(server, minutes=10)}
    feed, _, asked = load(server, **span, progress=heard.append)
    assert [each.pages for each in heard] == list(range(1, len(asked) + 1))
    assert heard[-1].done_ms == heard[-1].total_ms
    assert heard[-1].total_ms // MINUTE_MS == 8_990
    assert heard[-1].rows >= feed.origins["rest"]
    assert [each.done_ms for each in heard] == sorted(each.done_ms for each in heard)


def test_a_second_run_asks_for_nothing(simulator, tmp_path):
    server = simulator((BTC,), history_ms=90 * HOUR_MS)
    span = {"fromdate": ago(server, minutes=5_000), "todate": ago(server, minutes=30)}
    first, seen, asked = load(server, tmp_path, **span)
    assert len(asked) >= 5
    second, again, asked = load(server, tmp_path, **span)
    assert asked == []
    assert again.seen[second] == seen.seen[first]
    assert_equals_exchange(server, again, second, "1m", second._utc_ms(span["fromdate"]))


def test_of_a_history_up_to_now_only_bars_that_are_over_for_a_minute_are_kept(simulator, tmp_path):
    # The last bar has been over for 40 seconds: what the exchange says of it is taken, but not kept.
    start_ms = 1_704_067_240_000
    server = simulator((BTC,), history_ms=3 * HOUR_MS, quiet_bars="flat", start_ms=start_ms)
    feed, watcher, _ = load(server, tmp_path, fromdate=ago(server, minutes=100))
    (folder,) = tmp_path.rglob("BTC_USDT/1m")
    kept = pd.read_parquet(folder)["ts_ms"]
    newest_ms = int(watcher.seen[feed][-1][0]) - MINUTE_MS
    assert len(kept) > 90
    assert kept.max() + 2 * MINUTE_MS <= server.clock.now_ms() < newest_ms + 2 * MINUTE_MS


def test_only_what_is_missing_is_fetched(simulator, tmp_path):
    server = simulator((BTC,), history_ms=90 * HOUR_MS)
    load(server, tmp_path, fromdate=ago(server, minutes=5_000), todate=ago(server, minutes=4_001))
    load(server, tmp_path, fromdate=ago(server, minutes=3_000), todate=ago(server, minutes=2_001))
    feed, watcher, asked = load(
        server, tmp_path, fromdate=ago(server, minutes=5_000), todate=ago(server, minutes=2_001)
    )
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    middle_ms = feed._utc_ms(ago(server, minutes=4_000)), feed._utc_ms(ago(server, minutes=3_000))
    assert all(middle_ms[0] - MINUTE_MS <= int(each["startTime"]) < middle_ms[1] for each in asked)
    assert len(asked) <= 2


def test_a_live_feed_takes_its_history_from_the_archive(simulator, tmp_path):
    server = simulator((BTC,), history_ms=3 * HOUR_MS, speed=20)
    fromdate = ago(server, minutes=100)
    load(server, tmp_path, fromdate=fromdate)
    asked = len(klines(server))
    store = store_of(server, archive=tmp_path)
    feed = store.getdata(dataname="BTC/USDT", fromdate=fromdate, **MINUTES)
    now_ms = server.clock.now_ms()
    watcher = run(store, feed, until=lambda w: feed.origins.get("ws", 0) >= 2)
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(fromdate))
    # Only the end was asked for: what was too young to be kept, and what has happened since.
    assert all(int(each["startTime"]) >= now_ms - 10 * MINUTE_MS for each in klines(server)[asked:])


@pytest.mark.parametrize(("kind", "source"), [(CCXTFeed, "ohlcv"), (CCXTFeedWithVolumes, "ohlcv"), (CCXTFeed, "poll")])
def test_live_bars_are_kept_too_once_they_are_settled(simulator, tmp_path, kind, source):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=40)
    server.faults.abort(stream="btcusdt@kline_1s", nth=400)
    first_ms = server.clock.now_ms()
    options = {"dataname": "BTC/USDT", "fromdate": ago(server, minutes=10), "timeframe": bt.TimeFrame.Seconds}
    store = store_of(server, archive=tmp_path)
    feed = kind(store=store, source=source, **options)
    run(store, feed, until=lambda w: w.seen[feed][-1:] and w.seen[feed][-1][0] > first_ms + 110_000)
    kept = np.concatenate([pq.read_table(path).column("ts_ms").to_numpy() for path in tmp_path.rglob("*.parquet")])
    # All but what had not been over for a minute.
    last_ms = int(kept.max())
    assert first_ms + 30_000 < last_ms < server.clock.now_ms() - 60_000
    before = len(klines(server))
    last = dt.datetime.fromtimestamp(last_ms / 1_000, dt.UTC).replace(tzinfo=None)
    second = kind(store=store_of(server, archive=tmp_path), todate=last, historical=True, **options)
    watcher = run(second.store, second, until=lambda w: False)
    assert klines(server)[before:] == []
    assert watcher.seen[second][-1][0] == last_ms + 1_000
    assert_equals_exchange(server, watcher, second, "1s", second._utc_ms(options["fromdate"]))
    if kind is CCXTFeedWithVolumes:
        assert not np.isnan(np.array(second.lines.taker_buy_volume.array)).any()


def test_bars_whose_extra_values_could_not_be_read_are_asked_for_again(simulator, tmp_path):
    server = simulator((BTC,), history_ms=HOUR_MS)
    start, end = ago(server, minutes=20), ago(server, minutes=10)
    address = f"{server.url}/api.binance.com/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=11"
    first_ms = round(start.replace(tzinfo=dt.UTC).timestamp() * 1_000)
    with urlopen(f"{address}&startTime={first_ms}") as answer:
        rows = orjson.loads(answer.read())
    unread = orjson.dumps([[*row[:9], None, *row[10:]] for row in rows])
    server.faults.answer(200, unread, taken=False, path="/api/v3/klines", nth=1)

    def taken():
        store = store_of(server, archive=tmp_path)
        feed = CCXTFeedWithVolumes(
            store=store, dataname="BTC/USDT", fromdate=start, todate=end, historical=True, **MINUTES
        )
        run(store, feed, until=lambda w: False)
        return np.array(feed.lines.taker_buy_volume.array)

    assert np.isnan(taken()).any()
    assert not list(tmp_path.rglob("*.parquet"))
    assert not np.isnan(taken()).any()
    assert list(tmp_path.rglob("*.parquet"))


def test_bars_made_of_trades_are_not_kept(simulator, tmp_path):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=40)
    first_ms = server.clock.now_ms()
    store = store_of(server, archive=tmp_path)
    options = {"dataname": "BTC/USDT", "fromdate": ago(server, minutes=10), "timeframe": bt.TimeFrame.Seconds}
    feed = CCXTFeed(store=store, source="trades", **options)
    run(store, feed, until=lambda w: w.seen[feed][-1:] and w.seen[feed][-1][0] > first_ms + 80_000)
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.read_table(path).column("ts_ms").to_numpy().max() < first_ms


def test_a_bar_that_has_just_closed_is_delivered_and_not_kept(simulator, tmp_path):
    # The last bar has been over for 40 seconds: what the exchange says of it is taken, but not kept.
    start_ms = 1_704_067_240_000
    server = simulator((BTC,), history_ms=3 * HOUR_MS, quiet_bars="flat", start_ms=start_ms)
    feed, watcher, _ = load(server, tmp_path, fromdate=ago(server, minutes=100))
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    (path,) = tmp_path.rglob("*.parquet")
    kept = pq.read_table(path).column("ts_ms").to_numpy()
    assert kept[-1] + 2 * MINUTE_MS <= server.clock.now_ms()
    assert watcher.seen[feed][-1][0] == kept[-1] + 2 * MINUTE_MS


def test_a_damaged_file_is_set_aside_said_and_fetched_again(simulator, tmp_path, caplog):
    server = simulator((BTC,), history_ms=30 * HOUR_MS)
    span = {"fromdate": ago(server, minutes=1_500), "todate": ago(server, minutes=30)}
    load(server, tmp_path, **span)
    (path,) = tmp_path.rglob("*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        feed, watcher, asked = load(server, tmp_path, **span)
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(span["fromdate"]))
    assert len(asked) >= 2
    assert [record for record in caplog.records if "is damaged: it was set aside as" in record.message]
    (aside,) = tmp_path.rglob("*.damaged/*")
    assert aside.read_bytes() == bytes(data)
    assert load(server, tmp_path, **span)[2] == []


def test_an_archive_that_cannot_be_written_costs_a_warning_and_no_bar(simulator, tmp_path, caplog):
    server = simulator((BTC,), history_ms=30 * HOUR_MS)
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        feed, watcher, _ = load(server, tmp_path / "file", fromdate=ago(server, minutes=300))
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    assert [record for record in caplog.records if "could not be put into" in record.message]


def test_what_came_before_a_failure_is_kept(simulator, tmp_path):
    server = simulator((BTC,), history_ms=200 * HOUR_MS, quiet_bars="flat")
    server.faults.answer(400, b'{"code":-1100,"msg":"Illegal characters."}', taken=False, path="/api/v3/klines", nth=6)
    span = {"fromdate": ago(server, minutes=9_999), "todate": ago(server, minutes=30)}
    facts = dataclasses.replace(TABLE["binance"], history_requests=1)
    with pytest.raises(ValueError, match="Loading the bars of BTC/USDT failed"):
        load(server, tmp_path, store={"facts": facts}, **span)
    feed, watcher, asked = load(server, tmp_path, **span)
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(span["fromdate"]))
    assert len(asked) == 5


SCRIPT = """
import datetime as dt, sys
import backtrader as bt
from ccxtbt import CCXTStore
endpoint, folder, fromdate, todate = sys.argv[1:]
store = CCXTStore("binance", endpoint=endpoint, archive=folder)
feed = store.getdata(
    dataname="BTC/USDT", timeframe="1m", historical=True,
    fromdate=dt.datetime.fromisoformat(fromdate), todate=dt.datetime.fromisoformat(todate),
)
cerebro = bt.Cerebro(stdstats=False)
cerebro.adddata(feed)
cerebro.run()
print(len(feed))
"""


def test_two_processes_at_once(simulator, tmp_path):
    server = simulator((BTC,), history_ms=100 * HOUR_MS, quiet_bars="flat")
    folder = tmp_path / "archive"
    # They overlap, and neither has all.
    spans = [(5_000, 1_000), (4_000, 30)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, str(folder)]
            + [ago(server, minutes=minutes).isoformat() for minutes in span],
            stdout=subprocess.PIPE,
            text=True,
        )
        for span in spans
    ]
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [int(text) for text in told] == [first - last + 1 for first, last in spans]
    feed, watcher, asked = load(server, folder, fromdate=ago(server, minutes=5_000), todate=ago(server, minutes=30))
    assert asked == []
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))


def test_other_bars_lie_in_another_place(simulator, tmp_path):
    server = simulator((BTC,), history_ms=30 * HOUR_MS)
    span = {"fromdate": ago(server, minutes=300), "todate": ago(server, minutes=30)}
    load(server, tmp_path, **span)
    assert load(server, tmp_path, fetch_ohlcv_params={"timeZone": "0"}, **span)[2]
    assert load(server, tmp_path, timeframe="3m", **span)[2]
    # The simulator's bars are nobody else's.
    source = ("binance", "", server.url)
    assert Archive(tmp_path).shelf(source, "BTC/USDT", parse("1m")).folder.is_dir()
    assert not (tmp_path / "binance").exists()

"""The archive on disk: what it says it has it has, whatever happened to it, and others can read it."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.market.archive import Archive, Shelf
from ccxtbt.market.spans import Spans
from ccxtbt.market.timeframes import next_ms, parse

MINUTE_MS = 60_000
DAY_MS = 86_400_000
# 2024-02-27: months end near.
START_MS = 1_708_992_000_000


def bars(first_ms: int, count: int, step_ms: int = MINUTE_MS):
    """Bars whose values tell their time."""
    ts_ms = first_ms + step_ms * np.arange(count, dtype=np.int64)
    return ts_ms, np.vstack([ts_ms / (row + 1) for row in range(5)])


def shelf_in(folder, timeframe="1m", symbol="BTC/USDT") -> Shelf:
    return Archive(folder).shelf(["binance"], symbol, parse(timeframe))


def assert_holds(shelf: Shelf, start_ms: int, end_ms: int, step_ms: int = MINUTE_MS) -> Spans:
    """Hold what is read against the rule that `bars` follows; return what is complete."""
    held, damage = shelf.read(start_ms, end_ms)
    assert damage == []
    ts_ms, ohlcv = held.columns
    wanted = [ts for first, last in held.complete for ts in range(first + (START_MS - first) % step_ms, last, step_ms)]
    assert ts_ms.tolist() == wanted
    assert np.array_equal(ohlcv, np.vstack([ts_ms / (row + 1) for row in range(5)]))
    return held.complete


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), max_size=8),
    timeframe=st.sampled_from(["1s", "30s", "1m", "1h", "1d"]),
    ask=st.tuples(st.integers(-10, 90), st.integers(1, 120)),
)
def test_what_was_put_in_comes_out_and_nothing_else(tmp_path_factory, spans, timeframe, ask):
    # Steps of 13 hours: files of a day, a month and a year are all crossed.
    step_ms = 13 * 3_600_000
    shelf = shelf_in(tmp_path_factory.mktemp("archive"), timeframe)
    known = set()
    for first, count in spans:
        start_ms = START_MS + first * step_ms
        shelf.add(bars(start_ms, count, step_ms), Spans([(start_ms, start_ms + count * step_ms)]))
        known.update(range(first, first + count))
    first, count = ask
    held, damage = shelf.read(START_MS + first * step_ms, START_MS + (first + count) * step_ms)
    wanted = sorted(known & set(range(first, first + count)))
    assert damage == []
    assert ((held.columns[0] - START_MS) // step_ms).tolist() == wanted
    assert np.array_equal(held.columns[1], np.vstack([held.columns[0] / (row + 1) for row in range(5)]))
    complete = Spans((START_MS + n * step_ms, START_MS + (n + 1) * step_ms) for n in wanted)
    assert list(held.complete) == list(complete)


def test_bars_with_more_columns_lie_apart_and_the_later_word_counts(tmp_path):
    archive, source = Archive(tmp_path), ("binance",)
    wide = archive.shelf(source, "BTC/USDT", parse("1m"), None, ("trades", "quote_volume"))
    plain = archive.shelf(source, "BTC/USDT", parse("1m"))
    assert wide.folder != plain.folder
    times = 1_704_067_200_000 + 60_000 * np.arange(6)
    rows = np.arange(42.0).reshape(7, 6)
    wide.add((times[:4], rows[:, :4]), Spans([(int(times[0]), int(times[4]))]))
    wide.add((times[2:], -rows[:, 2:]), Spans([(int(times[2]), int(times[5]) + 60_000)]))
    (held, complete), _ = wide.read(int(times[0]), int(times[5]) + 60_000)
    assert held[0].tolist() == times.tolist()
    assert held[1].tolist() == np.hstack([rows[:, :2], -rows[:, 2:]]).tolist()
    assert list(complete) == [(int(times[0]), int(times[5]) + 60_000)]
    assert not len(plain.read(int(times[0]), int(times[5]))[0].columns[0])


def test_bars_outside_what_is_complete_are_not_kept(tmp_path):
    shelf = shelf_in(tmp_path)
    shelf.add(bars(START_MS, 100), Spans([(START_MS + 10 * MINUTE_MS, START_MS + 20 * MINUTE_MS)]))
    assert len(shelf.read(START_MS, START_MS + DAY_MS)[0].columns[0]) == 10


def test_a_silent_stretch_is_known_to_be_silent(tmp_path):
    shelf = shelf_in(tmp_path)
    shelf.add(bars(START_MS, 0), Spans([(START_MS, START_MS + 5 * DAY_MS)]))
    held, _ = shelf.read(START_MS, START_MS + 5 * DAY_MS)
    assert list(held.complete) == [(START_MS, START_MS + 5 * DAY_MS)]
    assert len(held.columns[0]) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"not parquet at all",
        lambda data: data[:300] + bytes([data[300] ^ 4]) + data[301:],
        lambda data: data[:-20] + bytes(20),
    ],
    ids=["cut", "empty", "other", "bit", "tail"],
)
def test_a_damaged_file_is_set_aside(tmp_path, spoil):
    shelf = shelf_in(tmp_path)
    shelf.add(bars(START_MS, 500), Spans([(START_MS, START_MS + 500 * MINUTE_MS)]))
    (path,) = shelf.folder.iterdir()
    spoilt = spoil(path.read_bytes())
    path.write_bytes(spoilt)
    held, damage = shelf.read(START_MS, START_MS + DAY_MS)
    assert len(held.columns[0]) == len(held.complete) == 0
    assert len(damage) == 1
    assert not path.exists()
    (aside,) = shelf.folder.with_name("1m.damaged").iterdir()
    assert aside.read_bytes() == spoilt
    assert str(aside) in damage[0]
    # It is said once, and what comes next is kept.
    shelf.add(bars(START_MS, 500), Spans([(START_MS, START_MS + 500 * MINUTE_MS)]))
    assert list(assert_holds(shelf, START_MS, START_MS + DAY_MS)) == [(START_MS, START_MS + 500 * MINUTE_MS)]


def test_a_damaged_file_is_set_aside_by_who_writes_too(tmp_path):
    shelf = shelf_in(tmp_path)
    shelf.add(bars(START_MS, 5), Spans([(START_MS, START_MS + 5 * MINUTE_MS)]))
    (path,) = shelf.folder.iterdir()
    path.write_bytes(b"not parquet at all")
    shelf.add(bars(START_MS, 9), Spans([(START_MS, START_MS + 9 * MINUTE_MS)]))
    (aside,) = shelf.folder.with_name("1m.damaged").iterdir()
    assert aside.read_bytes() == b"not parquet at all"
    assert list(assert_holds(shelf, START_MS, START_MS + DAY_MS)) == [(START_MS, START_MS + 9 * MINUTE_MS)]


def test_a_file_that_was_mended_meanwhile_is_left(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "ccxtbt.market.archive")
    shelf = shelf_in(tmp_path)
    shelf.add(bars(START_MS, 5), Spans([(START_MS, START_MS + 5 * MINUTE_MS)]))
    (path,) = shelf.folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with ThreadPoolExecutor(1) as reader:
        # Another process is writing: who found the damage has to wait for it.
        with FileLock(shelf.folder.with_name(f".{shelf.folder.name}.lock")):
            reading = reader.submit(shelf.read, START_MS, START_MS + DAY_MS)
            until_s = time.monotonic() + 5
            while "cannot be read" not in caplog.text and time.monotonic() < until_s:
                time.sleep(0.001)
            assert "cannot be read" in caplog.text
            path.write_bytes(whole)
        _, damage = reading.result(timeout=10)
    assert damage == []
    assert path.read_bytes() == whole
    assert not shelf.folder.with_name("1m.damaged").exists()


def test_a_file_of_another_market_is_not_taken_for_this_ones(tmp_path):
    other, shelf = shelf_in(tmp_path, symbol="ETH/USDT"), shelf_in(tmp_path)
    other.add(bars(START_MS, 5), Spans([(START_MS, START_MS + 5 * MINUTE_MS)]))
    (path,) = other.folder.iterdir()
    shelf.folder.mkdir(parents=True)
    path.rename(shelf.folder / path.name)
    held, damage = shelf.read(START_MS, START_MS + DAY_MS)
    assert len(held.columns[0]) == 0
    assert len(damage) == 1


def test_markets_and_timeframes_never_share_a_folder_on_any_file_system():
    archive = Archive("root")
    symbols = ["BTC/USDT", "BTC/USDT:USDT", "BTC_USDT", "BTC-USDT", "KBONK/USDT", "kBONK/USDT", "BTC/USDT:USDT-240628"]
    frames = ["1m", "1M", "1s", "1w"]
    sources = [["binance"], ["binance", "sandbox"], ["binance", "", "http://127.0.0.1:1"]]
    folders = [
        str(archive.shelf(source, symbol, parse(frame), params).folder).lower()
        for source in sources
        for symbol in symbols
        for frame in frames
        for params in ({}, {"price": "mark"})
    ]
    assert len(set(folders)) == len(folders)
    assert archive.shelf(["binance"], "BTC/USDT", parse("1m")).folder.parts == ("root", "binance", "BTC_USDT", "1m")


def test_a_stretch_of_the_calendar_has_one_file(tmp_path):
    for timeframe, count, step_ms, wanted in (
        ("1s", 3, DAY_MS, ["2024-02-27", "2024-02-28", "2024-02-29"]),
        ("5m", 4, DAY_MS, ["2024-02", "2024-03"]),
        ("1h", 2, 320 * DAY_MS, ["2024", "2025"]),
    ):
        shelf = shelf_in(tmp_path, timeframe)
        shelf.add(bars(START_MS, count, step_ms), Spans([(START_MS, START_MS + count * step_ms - step_ms + 1)]))
        assert sorted(path.stem for path in shelf.folder.iterdir() if pq.read_metadata(path).num_rows) == wanted


def test_others_read_it_with_nothing_of_ours(tmp_path):
    shelf = shelf_in(tmp_path)
    ts_ms, ohlcv = bars(START_MS, 6_000)
    shelf.add((ts_ms, ohlcv), Spans([(START_MS, START_MS + 6_000 * MINUTE_MS)]))
    frame = pd.read_parquet(shelf.folder)
    assert list(frame.columns) == ["ts_ms", "open", "high", "low", "close", "volume"]
    assert frame["ts_ms"].dtype == np.int64
    assert frame["ts_ms"].tolist() == ts_ms.tolist()
    assert frame["close"].tolist() == ohlcv[3].tolist()
    assert pd.to_datetime(frame["ts_ms"], unit="ms", utc=True)[0] == pd.Timestamp("2024-02-27", tz="UTC")
    table = pq.read_table(shelf.folder / "2024-02.parquet")
    assert json.loads(table.schema.metadata[b"ccxtbt"])["symbol"] == "BTC/USDT"


def test_polars_reads_it(tmp_path):
    polars = pytest.importorskip("polars", reason="polars is in the group bench")
    shelf = shelf_in(tmp_path)
    ts_ms, ohlcv = bars(START_MS, 6_000)
    shelf.add((ts_ms, ohlcv), Spans([(START_MS, START_MS + 6_000 * MINUTE_MS)]))
    frame = polars.read_parquet(shelf.folder)
    assert frame["ts_ms"].to_list() == ts_ms.tolist()
    assert frame["volume"].to_list() == ohlcv[4].tolist()


def test_duckdb_reads_it(tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is in the group bench")
    shelf = shelf_in(tmp_path)
    ts_ms, ohlcv = bars(START_MS, 6_000)
    shelf.add((ts_ms, ohlcv), Spans([(START_MS, START_MS + 6_000 * MINUTE_MS)]))
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"select ts_ms, high from '{shelf.folder}/*.parquet' where ts_ms >= {ts_ms[3_000]} order by ts_ms"
        ).fetchall()
    assert rows == list(zip(ts_ms[3_000:].tolist(), ohlcv[1, 3_000:].tolist(), strict=True))


HEAD = """
import io, itertools, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_archive import MINUTE_MS, START_MS, bars, shelf_in
from ccxtbt.market import archive
from ccxtbt.market.spans import Spans
shelf = shelf_in(Path(sys.argv[1]))
def add(first, count):
    first_ms = START_MS + first * MINUTE_MS
    shelf.add(bars(first_ms, count), Spans([(first_ms, first_ms + count * MINUTE_MS)]))
"""


def writer(folder, script: str) -> subprocess.Popen:
    """Start a process that adds to the shelf of the tests."""
    arguments = [sys.executable, "-c", HEAD + script, str(folder), str(Path(__file__).parent)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_writer_that_dies_half_way_leaves_what_was_there(tmp_path):
    script = """
add(0, 900)
write_table = archive.pq.write_table
def half(table, file, **options):
    whole = io.BytesIO()
    write_table(table, whole, **options)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os._exit(9)
archive.pq.write_table = half
add(900, 900)
"""
    with writer(tmp_path, script) as process:
        assert process.wait(60) == 9
    shelf = shelf_in(tmp_path)
    assert list(assert_holds(shelf, START_MS, START_MS + DAY_MS)) == [(START_MS, START_MS + 900 * MINUTE_MS)]
    # The lock of the dead is free, and what it left half written is in nobody's way.
    assert len(pd.read_parquet(shelf.folder)) == 900
    shelf.add(bars(START_MS, 1_000), Spans([(START_MS, START_MS + 1_000 * MINUTE_MS)]))
    assert list(assert_holds(shelf, START_MS, START_MS + DAY_MS)) == [(START_MS, START_MS + 1_000 * MINUTE_MS)]


def test_a_writer_that_is_killed_at_any_time_leaves_what_can_be_read(tmp_path):
    script = """
for n in itertools.count():
    add(n * 977 % 40_000, 900)
    if n == 2:
        print("writing", flush=True)
"""
    rng = random.Random(7)
    for _ in range(2):
        with writer(tmp_path, script) as process:
            assert process.stdout.readline() == "writing\n"
            # It dies at any moment, and knows of none.
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        assert len(assert_holds(shelf_in(tmp_path), START_MS, START_MS + 60 * DAY_MS)) > 0


def test_two_writers_lose_nothing_of_each_other(tmp_path):
    script = """
print("ready", flush=True)
for n in range(int(sys.stdin.readline()), 120, 2):
    add(n * 100, 100)
"""
    writers = [writer(tmp_path, script) for _ in range(2)]
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * 2
    for n, process in enumerate(writers):
        process.stdin.write(f"{n}\n")
        process.stdin.flush()
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    complete = assert_holds(shelf_in(tmp_path), START_MS, START_MS + 60 * DAY_MS)
    assert list(complete) == [(START_MS, START_MS + 12_000 * MINUTE_MS)]


def test_calendar_bars(tmp_path):
    shelf, timeframe = shelf_in(tmp_path, "1M"), parse("1M")
    opens = [1_577_836_800_000]
    while len(opens) < 60:
        opens.append(next_ms(timeframe, opens[-1]))
    ts_ms = np.array(opens, np.int64)
    shelf.add((ts_ms, np.vstack([ts_ms] * 5) / 1.0), Spans([(opens[0], next_ms(timeframe, opens[-1]))]))
    held, _ = shelf.read(opens[0], opens[-1] + 1)
    assert held.columns[0].tolist() == opens
    assert len(list(shelf.folder.iterdir())) == 5


def test_without_pyarrow_the_archive_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "ccxtbt.market.archive")
    with pytest.raises(ConfigError, match=r"pyarrow: install it with pip install 'ccxtbt\[archive\]'"):
        CCXTStore("binance", archive=True)


def test_the_archive_is_in_the_users_cache_folder_unless_told():
    assert Archive().root.name == "bars"
    assert "ccxtbt" in Archive().root.parts
    assert CCXTStore("binance", archive="somewhere").archive.root.name == "somewhere"
    assert CCXTStore("binance").archive is None

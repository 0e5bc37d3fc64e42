"""Live bars on their way into the archive: which are kept, when, and what the archive then takes as complete."""

from __future__ import annotations

import asyncio
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.market.archive import Archive
from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.history import empty
from ccxtbt.market.keeper import WRITE_MS, Keeper
from ccxtbt.market.timeframes import parse

MINUTE_MS = 60_000
# The first minute of a month.
START_MS = 1_704_067_200_000


def bar(minute, value=1.0, origin=Origin.WS, extra=()):
    return Bar(START_MS + minute * MINUTE_MS, value, value, value, value, value, origin, extra)


class Desk:
    """A keeper with a clock that a test sets."""

    def __init__(self, folder, extra=()):
        self.minute = 0.0
        self.shelf = Archive(folder).shelf(("binance",), "BTC/USDT", parse("1m"), None, extra)
        self.keeper = Keeper(self.shelf, parse("1m"), lambda: START_MS + int(self.minute * MINUTE_MS))
        self.keeper.begin(empty(), START_MS, START_MS)

    def write(self, minute):
        self.minute = minute
        asyncio.run(self.keeper.write())

    def kept(self):
        """Minutes and closes of the bars on disk, and the minutes of what is complete."""
        (columns, complete), _ = self.shelf.read(START_MS - MINUTE_MS, START_MS + 10_000 * MINUTE_MS)
        minutes = ((columns[0] - START_MS) // MINUTE_MS).tolist()
        spans = [((start - START_MS) / MINUTE_MS, (end - START_MS) / MINUTE_MS) for start, end in complete]
        return dict(zip(minutes, columns[1][3].tolist(), strict=True)), spans


def test_a_bar_is_kept_when_it_has_been_over_for_a_minute(tmp_path):
    desk = Desk(tmp_path)
    desk.keeper.take([bar(0), bar(1), bar(2)])
    desk.write(3)
    assert desk.kept() == ({0: 1.0, 1: 1.0}, [(0.0, 1 + 1 / MINUTE_MS)])
    desk.write(3.99)
    assert list(desk.kept()[0]) == [0, 1]
    desk.write(4)
    assert list(desk.kept()[0]) == [0, 1, 2]


def test_what_was_told_last_is_kept_also_where_it_comes_late(tmp_path):
    desk = Desk(tmp_path)
    desk.keeper.take([bar(0), bar(1), bar(2)])
    desk.keeper.correct(bar(1, 7.0, Origin.REST))
    desk.write(10)
    assert desk.kept()[0] == {0: 1.0, 1: 7.0, 2: 1.0}
    desk.keeper.correct(bar(0, 5.0, Origin.REST))
    desk.write(20)
    assert desk.kept() == ({0: 5.0, 1: 7.0, 2: 1.0}, [(0.0, 3.0)])


def test_a_flat_bar_is_an_empty_span_and_an_unread_one_is_left_out(tmp_path):
    desk = Desk(tmp_path, ("trades",))
    desk.keeper.take([bar(0, extra=(3.0,)), bar(1, origin=Origin.SYNTHETIC, extra=(0.0,)), bar(3, extra=(4.0,))])
    desk.keeper.take([bar(4, extra=(math.nan,)), bar(5, extra=(2.0,))])
    desk.write(60)
    assert desk.kept() == ({0: 1.0, 3: 1.0, 5: 1.0}, [(0.0, 4.0), (5.0, 6.0)])


def test_it_is_time_to_write_now_and_then(tmp_path):
    desk = Desk(tmp_path)
    assert not desk.keeper.due
    desk.minute = WRITE_MS / MINUTE_MS
    assert desk.keeper.due
    desk.write(desk.minute)
    assert not desk.keeper.due


def test_an_archive_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    desk = Desk(tmp_path / "file")
    desk.keeper.take([bar(0)])
    desk.write(10)
    assert "Live bars could not be put into" in caplog.text


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=8))
def test_all_that_is_old_enough_is_there_once_and_complete(tmp_path_factory, steps):
    desk = Desk(tmp_path_factory.mktemp("archive"))
    minute, given_, old = -1, [], set()
    for step, wait in steps:
        minute += step
        # The bar comes when it is over, or late.
        desk.keeper.take([bar(minute, float(minute))])
        given_.append(minute)
        desk.write(max(desk.minute, minute + 1 + wait))
        old |= {each for each in given_ if each + 2 <= desk.minute}
    kept, spans = desk.kept()
    assert set(kept) == old
    assert all(kept[each] == float(each) for each in kept)
    assert len(spans) <= 1
    assert all(spans[0][0] <= each < spans[0][1] for each in kept)
    assert all(each in kept for each in given_ if spans and each < spans[0][1])

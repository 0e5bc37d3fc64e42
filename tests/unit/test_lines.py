"""The C line against backtrader's LineBuffer, and the C cursor's steps against DataBase's, over random operations."""

import pickle

import backtrader as bt
import pytest
from backtrader.linebuffer import LineBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.bulkfeed import BulkLine
from reference.lines import bulk, columns, pandas, plain

values = st.floats(allow_nan=True)
sizes = st.integers(1, 3)
# An operation of a line: its name and arguments.
operations = st.one_of(
    st.tuples(st.just("forward"), values, sizes),
    st.tuples(st.just("forward")),
    st.tuples(st.just("backwards"), sizes, st.booleans()),
    st.tuples(st.just("rewind"), sizes),
    st.tuples(st.just("advance"), sizes),
    st.tuples(st.just("home")),
    st.tuples(st.just("extend"), values, sizes),
    st.tuples(st.just("reset")),
    st.tuples(st.just("__setitem__"), st.integers(-4, 4), values),
    st.tuples(st.just("set"), values, st.integers(-4, 4)),
    st.tuples(st.just("__getitem__"), st.integers(-6, 6)),
    st.tuples(st.just("get"), st.integers(-3, 0), sizes),
    st.tuples(st.just("getzero"), st.integers(0, 3), sizes),
    st.tuples(st.just("minbuffer"), st.integers(1, 6)),
    st.tuples(st.just("set_idx"), st.integers(-2, 6), st.booleans()),
    st.tuples(st.just("plotrange"), st.integers(0, 3), st.integers(0, 6)),
)


def outcome(line, operation):
    name, *arguments = operation
    try:
        result = getattr(line, name)(*arguments)
    except (IndexError, TypeError, AttributeError, ValueError) as error:
        return type(error).__name__
    return [plain(value) for value in result] if hasattr(result, "__len__") else plain(result)


def length(line):
    try:
        return len(line)
    except ValueError as error:
        return str(error)


def state(line):
    return (
        [plain(value) for value in line.array],
        type(line.array).__name__,
        length(line),
        line.buflen(),
        line.idx,
        line.lencount,
        line.extension,
        line.mode,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(operations, max_size=40), st.none() | st.tuples(st.integers(1, 5), st.booleans()), st.booleans())
def test_a_line_does_what_linebuffer_does(steps, bounded, bound):
    ours, theirs = BulkLine(), LineBuffer()
    followers = [LineBuffer(), LineBuffer()]
    for line, follower in ((ours, followers[0]), (theirs, followers[1])):
        if bounded:
            line._minperiod = bounded[0]
            line.qbuffer(extrasize=bounded[1])
        if bound:
            follower.forward(size=12)
            line.addbinding(follower)
    for step in steps:
        assert outcome(ours, step) == outcome(theirs, step), step
        assert state(ours) == state(theirs), step
    assert state(followers[0]) == state(followers[1])


@given(st.lists(operations, max_size=20))
def test_a_pickled_line_goes_on_where_it_was(steps):
    line = BulkLine()
    for step in steps:
        outcome(line, step)
    copy = pickle.loads(pickle.dumps(line))
    assert state(copy) == state(line)
    assert copy.lines[0] is copy


def test_a_line_takes_any_integer_as_index():
    numpy = pytest.importorskip("numpy")
    line = BulkLine()
    line.forward(3.0)
    line[numpy.int64(0)] = 4.0
    assert line[numpy.int64(0)] == line[False] == 4.0
    with pytest.raises(TypeError):
        line["0"]


def test_a_line_is_a_linebuffer_for_backtrader():
    line = BulkLine()
    assert isinstance(line, LineBuffer)
    assert (line.array.typecode, line.mode, line.idx, len(line)) == ("d", LineBuffer.UnBounded, -1, 0)


# The cursor: two feeds with the same bars, driven by the same calls that cerebro makes.
feed_steps = st.one_of(
    st.tuples(st.just("next"), st.booleans()),
    st.tuples(st.just("next_master"), st.integers(-3, 3), st.booleans()),
    st.tuples(st.just("advance"), st.booleans()),
    st.tuples(st.just("advance_master"), st.integers(-3, 3), st.booleans()),
    st.tuples(st.just("rewind")),
    st.tuples(st.just("home")),
    st.tuples(st.just("_tick_fill"), st.booleans()),
    st.tuples(st.just("_tick_nullify")),
    st.tuples(st.just("forward")),
    st.tuples(st.just("backwards")),
    st.tuples(st.just("load")),
)
TICKS = ["tick_open", "tick_high", "tick_low", "tick_close", "tick_volume", "tick_openinterest", "tick_last"]


class Master:
    """A data that stands `offset` bars of a minute after the first bar."""

    def __init__(self, first, offset):
        self.lines = self
        self.datetime = [first + (2 + offset) / 1440.0]


def drive(feed, step):
    name, *arguments = step
    first = 737790.0  # 2020-12-31, where `columns` begin
    try:
        # What cerebro never does: go back before the first bar, load while there are bars ahead.
        if name in {"rewind", "backwards"} and not len(feed):
            return None
        if name == "load" and len(feed) < feed.buflen():
            return None
        if name == "next":
            return feed.next(ticks=arguments[0])
        if name == "next_master":
            return feed.next(datamaster=Master(first, arguments[0]), ticks=arguments[1])
        if name == "advance":
            return feed.advance(ticks=arguments[0])
        if name == "advance_master":
            return feed.advance(datamaster=Master(first, arguments[0]), ticks=arguments[1])
        return getattr(feed, name)(*arguments)
    except IndexError:
        return "IndexError"


def look(feed):
    return (
        len(feed),
        feed.buflen(),
        plain(feed.advance_peek()),
        [[plain(value) for value in line.array] for line in feed.lines],
        [line.idx for line in feed.lines],
        [plain(getattr(feed, tick, "unset")) for tick in TICKS],
    )


@settings(max_examples=120, deadline=None)
@given(st.lists(feed_steps, max_size=25), st.booleans())
def test_a_cursor_does_what_database_does(steps, preloaded):
    feeds = [make(columns(6), timeframe=bt.TimeFrame.Minutes) for make in (bulk, pandas)]
    for feed in feeds:
        bt.Cerebro().adddata(feed)
        feed.reset()
        feed._start()
        if preloaded:
            feed.preload()
    for step in steps:
        results = [drive(feed, step) for feed in feeds]
        if "IndexError" in results:
            # A step that backtrader cannot take either leaves ticks half filled there: nothing to compare after it.
            assert results == ["IndexError", "IndexError"] or step[0] in {"_tick_fill", "next", "advance"}
            return
        assert results[0] == results[1], step
        assert look(feeds[0]) == look(feeds[1]), step

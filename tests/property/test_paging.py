"""The pages of a download against exchanges of every manner: all bars, none twice asked for without need."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccxtbt.market.paging import SHORTEST_PAGE, Ask, Kind, Plan
from ccxtbt.market.spans import Spans
from ccxtbt.market.timeframes import next_ms, parse
from reference.paged import PagedExchange

MINUTE_MS = 60_000
DAY_MS = 86_400_000
LISTED = [parse(text) for text in ("1m", "5m", "15m", "1h", "4h", "1d", "1w", "1M")]
START_MS = 1_600_000_020_000


def load(exchange: PagedExchange, plan: Plan, at_once: int, rng: random.Random, most: int = 20_000) -> list[int]:
    """Carry out a plan with some asks under way at once, answered in any order."""
    flying: list[Ask] = []
    bars: set[int] = set()
    while True:
        while len(flying) < at_once and (ask := plan.next()) is not None:
            assert plan.start_ms <= ask.since_ms < ask.until_ms <= plan.end_ms or ask.kind is Kind.PROBE
            assert ask.limit >= 1
            flying.append(ask)
        if not flying:
            return sorted(ts for ts in bars if plan.start_ms <= ts < plan.end_ms)
        assert exchange.requests < most, "it does not end"
        ask = flying.pop(rng.randrange(len(flying)))
        page = exchange.page(ask.timeframe, ask.since_ms, ask.limit)
        if ask.kind is not Kind.PROBE:
            bars.update(page)
        plan.answered(ask, np.array(page, np.int64))


@st.composite
def markets(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Opens of 1m bars with silent minutes and outages, and a span to ask for: before, within or after them."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.03]))
    opens, at_ms = [], START_MS
    for _ in range(draw(st.integers(1, 3))):
        stretch = draw(st.integers(0, 3_000))
        opens += [at_ms + n * MINUTE_MS for n in range(stretch) if rng.random() < density]
        at_ms += (stretch + draw(st.sampled_from([0, 7, 250, 2_000, 9_000]))) * MINUTE_MS
    late_ms = draw(st.sampled_from([0, 0, 1, 400, 5_000, 40_000])) * MINUTE_MS
    end_ms = at_ms + draw(st.sampled_from([-500, 0, 3, 2_000])) * MINUTE_MS
    return opens, START_MS - late_ms, max(end_ms, START_MS - late_ms + MINUTE_MS)


@settings(max_examples=400, deadline=None)
@given(
    market=markets(),
    style=st.sampled_from(["jump", "window", "newest", "clamped", "early"]),
    cap=st.sampled_from([100, 137, 300, 1_000]),
    limit=st.sampled_from([100, 300, 1_000, 1_500]),
    at_once=st.sampled_from([1, 3, 25]),
    seed=st.integers(0, 2**32),
    listed=st.sampled_from([LISTED, [], LISTED[:4]]),
)
def test_every_bar_comes_whatever_the_manner(market, style, cap, limit, at_once, seed, listed):
    opens, start_ms, end_ms = market
    exchange = PagedExchange(opens, parse("1m"), style, cap)
    plan = Plan(parse("1m"), start_ms, end_ms, limit, listed)
    found = load(exchange, plan, at_once, random.Random(seed))
    assert found == [ts for ts in opens if start_ms <= ts < end_ms]
    assert list(plan.proved) == [(start_ms, end_ms)]
    assert not plan.withheld


@settings(max_examples=100, deadline=None)
@given(
    months=st.integers(1, 150),
    skipped=st.integers(0, 30),
    style=st.sampled_from(["jump", "window", "newest"]),
    text=st.sampled_from(["1w", "1M", "3M", "1y"]),
    limit=st.sampled_from([100, 1_000]),
    at_once=st.sampled_from([1, 25]),
    seed=st.integers(0, 2**32),
)
def test_weeks_and_months(months, skipped, style, text, limit, at_once, seed):
    timeframe = parse(text)
    opens, at_ms = [], next_ms(timeframe, START_MS)
    for _ in range(months):
        opens.append(at_ms)
        at_ms = next_ms(timeframe, at_ms)
    start_ms = START_MS - skipped * 31 * DAY_MS
    plan = Plan(timeframe, start_ms, at_ms, limit, [*LISTED, parse("1y")])
    exchange = PagedExchange(opens, timeframe, style, limit)
    assert load(exchange, plan, at_once, random.Random(seed)) == opens
    assert list(plan.proved) == [(start_ms, at_ms)]
    assert exchange.requests <= 12


@given(cap=st.sampled_from([100, 720]), asked=st.integers(1, 5_000), at_once=st.sampled_from([1, 25]))
@example(cap=720, asked=900, at_once=25)
@settings(deadline=None)
def test_an_exchange_that_ignores_since_gives_what_it_has_and_what_it_keeps_back_is_known(cap, asked, at_once):
    opens = [START_MS + n * MINUTE_MS for n in range(6_000)]
    end_ms = opens[-1] + MINUTE_MS
    start_ms = end_ms - asked * MINUTE_MS
    exchange = PagedExchange(opens, parse("1m"), "latest", cap)
    plan = Plan(parse("1m"), start_ms, end_ms, 1_000, LISTED)
    found = load(exchange, plan, at_once, random.Random(cap))
    assert found == opens[-min(cap, asked) :]
    assert exchange.requests <= 12
    # Less than two longer bars cannot be told from a market that was silent.
    if asked - cap > 10:
        assert plan.withheld
        assert plan.proved.missing(start_ms, end_ms)
        assert list(Spans([*plan.proved, *plan.withheld])) == [(start_ms, end_ms)]


@pytest.mark.parametrize("style", ["jump", "window", "newest"])
def test_years_before_a_market_began_cost_next_to_nothing(style):
    opens = [START_MS + n * MINUTE_MS for n in range(10_000)]
    start_ms, end_ms = START_MS - 8 * 365 * DAY_MS, opens[-1] + MINUTE_MS
    exchange = PagedExchange(opens, parse("1m"), style, 1_000)
    plan = Plan(parse("1m"), start_ms, end_ms, 1_000, LISTED)
    assert load(exchange, plan, 25, random.Random(1)) == opens
    # The month in which it began holds 45 pages, the market ten.
    assert exchange.requests <= 45 + 10 + 10


@pytest.mark.parametrize(("style", "most"), [("jump", 527), ("window", 527), ("newest", 527)])
def test_a_year_of_minutes_takes_as_many_pages_as_it_holds(style, most):
    opens = [START_MS + n * MINUTE_MS for n in range(525_600)]
    exchange = PagedExchange(opens, parse("1m"), style, 1_000)
    plan = Plan(parse("1m"), START_MS, opens[-1] + MINUTE_MS, 1_000, LISTED)
    assert len(load(exchange, plan, 25, random.Random(1))) == 525_600
    assert exchange.requests <= most


def test_a_market_with_a_trade_an_hour_takes_few_pages():
    opens = [START_MS + n * 60 * MINUTE_MS for n in range(8_760)]
    exchange = PagedExchange(opens, parse("1m"), "jump", 1_000)
    plan = Plan(parse("1m"), START_MS, opens[-1] + MINUTE_MS, 1_000, LISTED)
    assert load(exchange, plan, 25, random.Random(1)) == opens
    assert exchange.requests <= 2 * 9 + 25


@pytest.mark.parametrize("style", ["jump", "window", "newest"])
@pytest.mark.parametrize("bars", [0, 1, 3])
def test_a_short_span_is_one_request(style, bars):
    opens = [START_MS + n * MINUTE_MS for n in (1, 2, 3)][:bars]
    exchange = PagedExchange(opens, parse("1m"), style, 1_000)
    plan = Plan(parse("1m"), START_MS, START_MS + 5 * MINUTE_MS, 1_000, LISTED)
    assert load(exchange, plan, 25, random.Random(1)) == opens
    assert exchange.requests == 1


def test_a_market_that_is_empty_is_not_walked_through():
    exchange = PagedExchange([], parse("1m"), "window", 1_000)
    plan = Plan(parse("1m"), START_MS, START_MS + 3_000 * DAY_MS, 1_000, LISTED)
    assert load(exchange, plan, 25, random.Random(1)) == []
    assert exchange.requests <= 12


def test_a_probe_that_fails_is_done_without():
    opens = [START_MS + n * MINUTE_MS for n in range(3_000)]
    exchange = PagedExchange(opens, parse("1m"), "window", 1_000)
    plan = Plan(parse("1m"), START_MS - 9_000 * MINUTE_MS, opens[-1] + MINUTE_MS, 1_000, LISTED)
    bars: set[int] = set()
    probes = 0
    while (ask := plan.next()) is not None:
        if ask.kind is Kind.PROBE:
            probes += 1
            plan.answered(ask, None)
            continue
        page = exchange.page(ask.timeframe, ask.since_ms, ask.limit)
        bars.update(page)
        plan.answered(ask, np.array(page, np.int64))
    assert probes == 1
    assert sorted(bars) == opens


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=12), st.integers(0, 40))
def test_spans_are_sets_of_times(steps, at):
    spans, reference = Spans(), set()
    for adds, start, end in steps:
        (spans.add if adds else spans.cut)(start, end)
        reference = reference | set(range(start, end)) if adds else reference - set(range(start, end))
    parts = list(spans)
    assert {ts for start, end in parts for ts in range(start, end)} == reference
    assert parts == sorted(parts)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(parts))
    assert spans.total_ms == len(reference)
    covered = {ts for start, end in spans.within(at, at + 9) for ts in range(start, end)}
    missing = {ts for start, end in spans.missing(at, at + 9) for ts in range(start, end)}
    assert covered == reference & set(range(at, at + 9))
    assert missing == set(range(at, at + 9)) - reference


def test_the_shortest_page_is_the_shortest_of_ccxt():
    """An answer with fewer rows than any exchange's page was not cut; ccxt's table says which is the shortest."""
    import ccxt

    def limits(features):
        for name, part in features.items():
            if name == "fetchOHLCV" and isinstance(part, dict):
                yield part.get("limit")
            elif isinstance(part, dict):
                yield from limits(part)

    told = [n for name in ccxt.exchanges for n in limits(getattr(ccxt, name)().features or {}) if n]
    assert len(told) > 100
    assert min(told) >= SHORTEST_PAGE

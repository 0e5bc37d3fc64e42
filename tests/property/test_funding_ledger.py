"""What is known of funding at a time depends on nothing that was told later."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.funding import STALE_MS, Forecast, Ledger

PERIOD_MS = 1_000_000
RATES = st.integers(-100, 100).map(float)
# (time, mark price, rate): what an exchange tells at a time, of the payment that comes next.
TOLD = st.lists(st.tuples(st.integers(1, 5 * PERIOD_MS), RATES, RATES), max_size=30, unique_by=lambda each: each[0])


def due_after(at_ms: int) -> int:
    return (at_ms // PERIOD_MS + 1) * PERIOD_MS


def told(events: list[tuple[int, float, float]]) -> Ledger:
    ledger = Ledger()
    for at_ms, price, rate in events:
        ledger.mark(at_ms, price)
        ledger.forecast(Forecast(at_ms, rate, due_after(at_ms)))
    return ledger


def same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(
        left == right or (math.isnan(left) and math.isnan(right)) for left, right in zip(one, other, strict=True)
    )


@given(TOLD, st.integers(1, 6 * PERIOD_MS))
def test_at_a_time_all_is_what_was_told_up_to_it(events: list[tuple[int, float, float]], now_ms: int) -> None:
    events.sort()
    known = [each for each in events if each[0] <= now_ms]
    rate, mark, due, predicted = told(events).at(now_ms)
    rate_then, mark_then, _, predicted_then = told(known).at(now_ms)
    assert same((rate, mark, predicted), (rate_then, mark_then, predicted_then))
    if not known:
        assert math.isnan(rate)
        assert math.isnan(mark)
        return
    last_ms, price, last_rate = known[-1]
    assert same((mark,), (price if now_ms - last_ms <= STALE_MS else math.nan,))
    if due_after(last_ms) > now_ms:
        assert (due, predicted) == (due_after(last_ms), last_rate)
        before = [each for each in known if due_after(each[0]) <= now_ms]
        assert same((rate,), (before[-1][2] if before else math.nan,))
    else:
        # It has fallen due since.
        assert rate == last_rate
        assert math.isnan(predicted)


@given(st.lists(st.tuples(st.integers(1, 50), RATES), max_size=20), st.lists(st.integers(0, 60), max_size=20))
def test_columns_are_the_last_payment_up_to_each_close(payments: list[tuple[int, float]], closes: list[int]) -> None:
    ledger, known = Ledger(), dict[int, float]()
    for at_ms, rate in payments:
        ledger.pay(at_ms, rate)
        known[at_ms] = rate
    rates, later = ledger.paid_columns(np.array(sorted(closes), np.int64))
    for close, rate, due in zip(sorted(closes), rates.tolist(), later.tolist(), strict=True):
        before = [at_ms for at_ms in known if at_ms <= close]
        after = [at_ms for at_ms in known if at_ms > close]
        assert same((rate,), (known[max(before)] if before else math.nan,))
        assert same((due,), (float(min(after)) if after else math.nan,))

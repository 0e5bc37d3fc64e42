"""The compiled budget at its edges: what it refuses, freezes, learns from others, and keeps when its rules change."""

import asyncio
import math
import threading

import pytest

from ccxtbt._ratelimit import Budget, Gate, Rule, Ticket, Turn
from ccxtbt.errors import ConfigError

S = 1_000_000_000


class HandClock:
    """Nanoseconds that only the test moves."""

    def __init__(self):
        self.ns = 5 * S

    def __call__(self):
        return self.ns


def used(budget, now_ns, rule=0):
    return budget.state(now_ns)[5][rule][2]


def let_out(budget, now_ns, lane=2, weight=1.0):
    count = 0
    while budget.take(weight, now_ns, lane) == 0:
        count += 1
    return count


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0, "window_ns": S},
        {"limit": -1, "window_ns": S},
        {"limit": math.nan, "window_ns": S},
        {"limit": math.inf, "window_ns": S},
        {"limit": 1, "window_ns": 0},
        {"limit": 1, "window_ns": S, "margin_ns": -1},
        {"limit": 1, "window_ns": S, "burst": 0},
        {"limit": 10, "window_ns": S, "order_reserve": 10},
        {"limit": 10, "window_ns": S, "order_reserve": 5, "live_reserve": 5},
        {"limit": 10, "window_ns": S, "order_reserve": math.nan},
        {"limit": 10, "window_ns": S, "live_reserve": -1},
    ],
)
def test_rules_that_allow_nothing_or_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigError):
        Rule(**arguments)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, -math.inf, 1e13])
def test_weights_that_cannot_be_counted_are_refused(weight):
    budget = Budget([Rule(10, S)])
    with pytest.raises(ConfigError, match="weight"):
        budget.take(weight, 0)
    with pytest.raises(ConfigError):
        Ticket(weight, 0)
    with pytest.raises(ConfigError):
        Gate([Rule(10, S)]).try_acquire(weight)
    assert used(budget, 0) == 0


@pytest.mark.parametrize("lane", [-1, 3])
def test_lanes_that_do_not_exist_are_refused(lane):
    with pytest.raises(ConfigError, match="lane"):
        Budget([Rule(10, S)]).take(1, 0, lane)


def test_rules_must_be_rules():
    with pytest.raises(TypeError):
        Budget([(10, S)])


def test_all_windows_grant_together_or_not_at_all():
    budget = Budget([Rule(3, S), Rule(4, 60 * S), Rule(2, 10 * S, per_call=True)])
    assert budget.take(1.5, 0) == 0
    assert budget.take(2, 0) == S
    assert [rule[2] for rule in budget.state(0)[5]] == [1.5, 1.5, 1]
    assert budget.take(2, S) == 0
    assert budget.take(0.5, 2 * S) == 8 * S
    assert budget.take(1, 10 * S) == 50 * S
    assert budget.take(0.5, 10 * S) == 0


def test_decimal_weights_add_up():
    budget = Budget([Rule(3, S)])
    assert let_out(budget, 0, weight=0.1) == 30


def test_margin_lengthens_the_window():
    budget = Budget([Rule(1, S, margin_ns=S // 10)])
    assert budget.take(1, 0) == 0
    assert budget.take(1, S) == S // 10
    assert budget.take(1, S + S // 10) == 0


def test_reserves_are_for_those_before():
    budget = Budget([Rule(10, S, order_reserve=2, live_reserve=3)])
    assert [let_out(budget, 0, lane) for lane in (2, 1, 0)] == [5, 3, 2]
    assert [budget.wait_ns(1, 0, lane) for lane in (2, 1, 0)] == [S, S, S]


def test_a_call_dearer_than_the_window_goes_out_alone_and_holds_it_for_what_it_is_worth():
    budget = Budget([Rule(10, S)])
    assert budget.take(1, 0) == 0
    assert budget.take(25, 0) == S
    assert budget.take(25, S) == 0
    assert budget.take(1, S) == 2 * S + S // 2


def test_a_bucket_starts_full_and_refills():
    budget = Budget([Rule(10, S, burst=5)])
    assert let_out(budget, 0) == 5
    assert budget.wait_ns(1, 0) == S // 10
    assert let_out(budget, S // 5) == 2
    assert let_out(budget, 100 * S) == 5
    assert budget.take(20, 200 * S) == 0, "dearer than the bucket: it goes into debt"
    assert budget.wait_ns(1, 200 * S) == 16 * S // 10


def test_freeze_holds_all_lanes_and_is_never_shortened():
    budget = Budget([Rule(10, S)])
    budget.freeze(7 * S)
    budget.freeze(3 * S)
    assert [budget.take(1, S, lane) for lane in (0, 1, 2)] == [6 * S] * 3
    assert budget.take(0, S) == 6 * S, "even a call that costs nothing"
    assert budget.state(S)[0] == 6 * S
    assert budget.take(1, 7 * S) == 0


def test_freeze_turns_back_who_is_being_woken():
    budget = Budget([Rule(1, S)])
    ticket = Ticket(1, 2)
    budget.join(ticket)
    assert budget.promise(ticket, 0) == 0
    assert budget.state(0)[1] == (0, 0, 0)
    budget.freeze(2 * S)
    assert not budget.confirm(ticket, S)
    assert ticket.is_waiting
    assert budget.state(S)[1] == (0, 0, 1)
    assert budget.promise(ticket, S) == S
    assert budget.promise(ticket, 2 * S) == 0
    assert budget.confirm(ticket, 3 * S)
    assert budget.wait_ns(1, 3 * S) == S
    assert not budget.leave(ticket)


def test_a_promise_does_not_age_and_a_left_one_is_given_back():
    budget = Budget([Rule(1, S)])
    first, second = Ticket(1, 2), Ticket(1, 2)
    for ticket in (first, second):
        budget.join(ticket)
    assert budget.promise(first, 0) == 0
    assert budget.promise(second, 50 * S) == S
    assert budget.leave(first)
    assert budget.promise(second, 50 * S) == 0
    assert budget.promise(second, 50 * S) == -1, "promised already"
    assert not budget.confirm(first, 50 * S), "gone"
    assert budget.confirm(second, 50 * S)


def test_debits_count_even_beyond_the_limit():
    budget = Budget([Rule(10, S), Rule(100, 60 * S), Rule(5, S, per_call=True)])
    budget.debit(30, 0)
    assert budget.take(1, 0) == S
    assert [rule[2] for rule in budget.state(0)[5]] == [30, 30, 0]
    assert budget.state(0)[4] == 30
    budget.debit(65, S, 60 * S)
    assert [rule[2] for rule in budget.state(S)[5]] == [0, 95, 0]


def test_observed_use_is_counted_once():
    budget = Budget([Rule(6000, 60 * S)])
    budget.take(100, 0)
    assert budget.observe(100, 60 * S, 0, S) == 0
    assert budget.observe(130, 60 * S, 0, S) == 30
    assert budget.observe(130, 60 * S, 0, 2 * S) == 0
    assert budget.observe(90, 60 * S, 0, 2 * S) == 0, "what is not counted there yet is on its way"
    assert used(budget, 2 * S) == 130
    assert budget.observe(7, 60 * S, 50 * S, 55 * S) == 7, "a counter that began anew at 50 s knows nothing of ours"
    assert budget.observe(9999, S, 0, 55 * S) == 0, "no such window"


def test_observed_use_respects_unwoken_promises():
    budget = Budget([Rule(10, S)])
    ticket = Ticket(4, 2)
    budget.join(ticket)
    budget.promise(ticket, 0)
    assert budget.observe(6, S, 0, 0) == 6
    assert budget.take(1, 0) == S
    assert budget.confirm(ticket, 0)
    assert used(budget, 0) == 10


def test_the_clock_may_come_late_but_time_does_not_run_backwards():
    budget = Budget([Rule(1, S)])
    assert budget.take(1, 10 * S) == 0
    assert budget.take(1, 9 * S) == S, "a thread that read the clock first and arrives last"
    assert budget.take(1, 11 * S) == 0


def test_new_rules_inherit_what_went_out():
    budget = Budget([Rule(10, S), Rule(1000, 60 * S)])
    for at in range(5):
        assert budget.take(4, at * S) == 0
    budget.configure([Rule(6, S), Rule(50, 10 * S), Rule(30, 100 * S), Rule(7, S, per_call=True)], 4 * S)
    assert [rule[2] for rule in budget.state(4 * S)[5]] == [4, 20, 20, 0]
    assert budget.take(3, 4 * S) == S
    assert used(budget, 11 * S, 1) == 12, "each entry ages by the new window from when it went out"
    budget.configure([], 12 * S)
    assert budget.take(1e9, 12 * S) == 0


def test_new_rules_keep_promises_and_freezes():
    budget = Budget([Rule(1, S)])
    ticket = Ticket(1, 2)
    budget.join(ticket)
    budget.promise(ticket, 0)
    budget.configure([Rule(1, 2 * S)], 0)
    assert budget.take(1, 0) == 2 * S
    budget.confirm(ticket, 0)
    budget.freeze(9 * S)
    budget.configure([Rule(5, S)], 0)
    assert budget.take(1, 0) == 9 * S
    with pytest.raises(TypeError):
        budget.configure([Rule(7, S), None], 0)
    assert budget.state(0)[5][0][0] == 5, "a refused change changes nothing"


def test_a_bucket_inherits_from_a_window_and_back():
    budget = Budget([Rule(10, S)])
    budget.take(6, 0)
    budget.configure([Rule(10, S, burst=10)], S // 2)
    assert used(budget, S // 2) == 1, "as though the bucket had been there from the start"
    budget.configure([Rule(10, S)], S // 2)
    assert used(budget, S // 2) == 1


def test_reset_forgets():
    budget = Budget([Rule(2, S), Rule(2, S, burst=1)])
    budget.take(1, 0)
    budget.freeze(100 * S)
    budget.reset()
    assert budget.take(1, 0) == 0


def test_memory_stays_bounded_in_a_window_of_many_grants():
    psutil = pytest.importorskip("psutil")
    budget = Budget([Rule(10_000_000, 86_400 * S)])
    for now_ns in range(0, 3_600 * S, 36 * 1_000_000):
        assert budget.take(1, now_ns) == 0
    before = psutil.Process().memory_info().rss
    for now_ns in range(3_600 * S, 20_000 * S, 36 * 1_000_000):
        assert budget.take(1, now_ns) == 0
    assert psutil.Process().memory_info().rss - before < 4 << 20
    assert used(budget, 20_000 * S) == pytest.approx(555_556, abs=1)


def test_nobody_passes_who_waits_before_him():
    clock = HandClock()
    gate = Gate([Rule(5, S)], clock)
    ticket = Ticket(1, 1)
    gate.budget.join(ticket)
    assert not gate.try_acquire(1, 2)
    assert not gate.try_acquire(1, 1)
    assert gate.try_acquire(1, 0)
    gate.budget.leave(ticket)
    assert gate.try_acquire(1, 2)
    assert gate.budget.state(clock.ns)[2:4] == (2, 2.0)


def test_a_grant_can_be_awaited_run_as_a_task_and_gathered():
    gate = Gate([Rule(100, S)])

    async def use():
        assert await gate.acquire() is None
        await asyncio.create_task(gate.acquire(2))
        await asyncio.wait_for(gate.acquire(3), 1)
        await asyncio.gather(gate.acquire(4), gate.acquire(5))
        task = asyncio.create_task(gate.acquire())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert gate.budget.state(gate.now_ns())[3] == 16
    grant = gate.acquire()
    grant.close()
    with pytest.raises(StopIteration):
        grant.send(None)
    with pytest.raises(KeyError):
        grant.throw(KeyError("x"))


def test_without_room_the_gate_asks_its_line():
    gate = Gate([Rule(1, S)], HandClock())
    gate.acquire()
    with pytest.raises(NotImplementedError):
        gate.acquire()


def test_a_clock_that_fails_is_heard():
    def broken():
        raise OSError("no clock")

    with pytest.raises(OSError, match="no clock"):
        Gate([Rule(1, S)], broken).acquire()


def test_the_turn_is_one_threads_and_not_taken_twice():
    turn = Turn()
    seen = []

    def other():
        with turn as mine:
            seen.append(mine)

    with turn as mine:
        assert mine
        with turn as again:
            assert not again
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    with turn as mine:
        assert mine
    assert seen == [False]


def test_threads_that_race_get_exactly_the_limit():
    limit, threads = 20_000, 8
    gate = Gate([Rule(limit, 86_400 * S), Rule(limit, 86_400 * S, per_call=True)], HandClock())
    start = threading.Barrier(threads)
    got = [0] * threads

    def run(which):
        start.wait()
        while gate.try_acquire():
            got[which] += 1
            ticket = Ticket(1, 2)
            gate.budget.join(ticket)
            if gate.budget.promise(ticket, 5 * S) == 0:
                gate.budget.leave(ticket)
            gate.budget.leave(ticket)

    workers = [threading.Thread(target=run, args=(which,)) for which in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    while gate.try_acquire():
        got[0] += 1
    assert sum(got) == limit
    state = gate.budget.state(5 * S)
    assert state[1] == (0, 0, 0)
    assert [(rule[2], rule[3]) for rule in state[5]] == [(limit, 0)] * 2

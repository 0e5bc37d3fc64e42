"""Who goes out when: lines, lanes, freezes and wake-ups, in virtual time wherever time matters."""

import asyncio
import contextvars
import gc
import pathlib
import random
import selectors
import sys
import threading
import time
import weakref

import ccxt
import ccxt.async_support
import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.exchange import limiter as limiter_module
from ccxtbt.exchange.limiter import LANE, Lane, Limiter, Rule, in_lane
from ccxtbt.exchange.throttle import AsyncThrottle, SyncThrottle
from ccxtbt.exchange.windows import rules_from_ccxt, rules_from_table, weight_per_cost
from reference.ratelimit import most_in_any_window
from waiting import wait_until

MS = 1_000_000
S = 1_000_000_000


class VirtualSelector:
    """Waits by moving the loop's clock."""

    def __init__(self, loop):
        self.loop = loop
        self.real = selectors.DefaultSelector()

    def select(self, timeout=None):
        events = self.real.select(0)
        if not events:
            if timeout is None:
                raise AssertionError("the loop would sleep for ever: somebody was never called")
            self.loop.ns += -int(-timeout * S // 1) + self.loop.lateness_ns()
        return events

    def __getattr__(self, name):
        return getattr(self.real, name)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it has nothing to do, and by `lateness_ns` at every turn."""

    def __init__(self, lateness_ns=lambda: 0):
        self.ns = 1000 * S
        self.lateness_ns = lateness_ns
        self.timers = []
        self.most_timers = 0
        self.timers_made = 0
        super().__init__(VirtualSelector(self))

    def time(self):
        return self.ns / S

    def call_at(self, when, *args, **kwargs):
        handle = super().call_at(when, *args, **kwargs)
        self.timers = [one for one in self.timers if not one.cancelled() and one.when() > self.time()]
        self.timers.append(handle)
        self.timers_made += 1
        self.most_timers = max(self.most_timers, len(self.timers))
        return handle


@pytest.fixture
def loop():
    loop = VirtualLoop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def limiter_on(loop, *rules):
    return Limiter(rules, clock_ns=lambda: loop.ns)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def line_up(limiter, names, lane=Lane.HISTORY, weight=1.0, out=None):
    """Tasks that wait in the order of their names and then write them down."""

    async def one(name):
        await limiter.acquire(weight, lane)
        out.append(name)

    tasks = [asyncio.create_task(one(name)) for name in names]
    await settle()
    return tasks


def waiting(limiter):
    return limiter.stats().waiting


@pytest.mark.parametrize("late_ns", [0, 200_000, 40 * MS])
@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_waiters_keep_every_window_and_use_it(late_ns, seed):
    print("seed", seed)
    dice = random.Random(seed)
    loop = VirtualLoop(lambda: dice.randrange(late_ns + 1))
    limiter = limiter_on(loop, Rule(500, S))
    sent, order = [], []

    async def one(name):
        await limiter.acquire()
        # Read at the moment the request would go out; the loop's next turn comes later by chance.
        sent.append((loop.ns, 1))
        order.append(name)

    async def run():
        await asyncio.gather(*(one(name) for name in range(5_000)))

    started_ns = loop.ns
    loop.run_until_complete(run())
    assert order == sorted(order), "first come, first served"
    assert most_in_any_window(sent, S) <= 500
    if late_ns <= 200_000:
        assert loop.ns - started_ns <= 9 * S / 0.98
    assert loop.most_timers == 1
    if not late_ns:
        assert loop.timers_made <= 30, "nobody polls"
    assert limiter.stats().rules[0].promised == 0
    loop.close()


def test_an_hour_of_full_load_at_an_exchange_that_counts_by_the_minute():
    """Requests take 5 to 250 ms to get there; no minute there sees too much, and little of the hour is wasted."""
    dice = random.Random(11)
    loop = VirtualLoop(lambda: dice.randrange(200_000))
    limiter = limiter_on(loop, *rules_from_table([(6000, 60_000)]))
    started_ns, minutes, longest_order_ns = loop.ns, {}, 0

    def arrive(weight):
        minute = loop.ns // (60 * S)
        minutes[minute] = minutes.get(minute, 0) + weight

    async def history():
        while loop.ns - started_ns < 3600 * S:
            weight = dice.choice((2, 10, 20, 40))
            await limiter.acquire(weight)
            loop.call_later(dice.uniform(0.005, 0.250), arrive, weight)

    async def orders():
        nonlocal longest_order_ns
        while loop.ns - started_ns < 3600 * S:
            await asyncio.sleep(dice.uniform(0, 4))
            asked_ns = loop.ns
            await limiter.acquire(1, Lane.ORDER)
            longest_order_ns = max(longest_order_ns, loop.ns - asked_ns)
            loop.call_later(dice.uniform(0.005, 0.250), arrive, 1)

    async def run():
        await asyncio.gather(orders(), *(history() for _ in range(30)))

    loop.run_until_complete(run())
    loop.close()
    assert max(minutes.values()) <= 6000
    assert sum(minutes.values()) >= 0.97 * 6000 * 60
    assert longest_order_ns <= 100 * MS


def test_two_windows_at_once_and_uneven_weights(loop):
    limiter = limiter_on(loop, Rule(10, S), Rule(100, 60 * S))
    sent = []

    async def one(weight):
        await limiter.acquire(weight)
        sent.append((loop.ns, weight))

    async def run():
        await asyncio.gather(*(one(weight) for weight in [1, 7, 2, 0.5] * 20))

    loop.run_until_complete(run())
    assert most_in_any_window(sent, S) <= 10
    assert most_in_any_window(sent, 60 * S) <= 100
    assert loop.ns - 1000 * S <= 125 * S


def test_orders_before_live_before_history(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(1, S)), []
        limiter.try_acquire()
        tasks = await line_up(limiter, ["history 1", "history 2"], Lane.HISTORY, out=out)
        tasks += await line_up(limiter, ["live 1", "live 2"], Lane.LIVE, out=out)
        tasks += await line_up(limiter, ["order 1", "order 2"], Lane.ORDER, out=out)
        assert waiting(limiter) == (2, 2, 2)
        await asyncio.gather(*tasks)
        assert out == ["order 1", "order 2", "live 1", "live 2", "history 1", "history 2"]
        assert waiting(limiter) == (0, 0, 0)

    loop.run_until_complete(run())


def test_nothing_passes_an_order_that_waits_for_more_room(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(4, S)), []
        limiter.try_acquire(2)
        tasks = await line_up(limiter, ["dear order"], Lane.ORDER, 4, out)
        tasks += await line_up(limiter, ["cheap history"], Lane.HISTORY, 1, out)
        assert not limiter.try_acquire(1, Lane.LIVE)
        await asyncio.gather(*tasks)
        assert out == ["dear order", "cheap history"]

    loop.run_until_complete(run())


def test_a_reserve_lets_an_order_out_of_a_spent_window(loop):
    async def run():
        limiter = limiter_on(loop, *rules_from_table([(6000, 60_000)]))
        while limiter.try_acquire(20):
            pass
        assert limiter.wait_time(20) > 59
        before_ns = loop.ns
        await limiter.acquire(1, Lane.ORDER)
        assert loop.ns == before_ns

    loop.run_until_complete(run())


def test_a_cancelled_waiter_gives_up_its_place(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(3, S)), []
        limiter.try_acquire(2)
        tasks = await line_up(limiter, ["dear"], weight=3, out=out)
        tasks += await line_up(limiter, ["b", "c"], out=out)
        tasks[0].cancel()
        await settle()
        assert out == ["b"], "the next one goes at once: there was room for it"
        assert waiting(limiter) == (0, 0, 1)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert waiting(limiter) == (0, 0, 0)
        assert limiter.stats().rules[0].used == 3

    loop.run_until_complete(run())


def test_a_waiter_cancelled_while_it_is_woken_loses_nothing(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(1, S)), []
        limiter.try_acquire()
        tasks = await line_up(limiter, ["a", "b"], out=out)
        loop.ns += S
        limiter.serve()
        assert limiter.stats().rules[0].promised == 1
        tasks[0].cancel()
        before_ns = loop.ns
        await asyncio.gather(*tasks, return_exceptions=True)
        assert out == ["b"]
        assert loop.ns == before_ns, "b took over what a was promised"
        assert limiter.stats().rules[0].promised == 0

    loop.run_until_complete(run())


def test_thousands_of_cancelled_waiters_leave_no_trace(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(1, S)), []
        limiter.freeze(3600)
        first = await line_up(limiter, ["stays at the head"], out=out)
        for _ in range(20):
            tasks = await line_up(limiter, range(200), out=out)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(map(len, limiter._lines)) < 600
        first[0].cancel()
        await asyncio.gather(*first, return_exceptions=True)
        assert waiting(limiter) == (0, 0, 0)
        assert not limiter._sides
        assert not [timer for timer in loop.timers if not timer.cancelled()]

    loop.run_until_complete(run())


def test_a_freeze_holds_everybody_those_being_woken_too(loop):
    told = []

    async def run():
        limiter, out = limiter_on(loop, Rule(2, S)), []
        limiter.on_freeze = lambda seconds, reason: told.append((seconds, reason))
        limiter.try_acquire(2)
        started_ns = loop.ns
        tasks = await line_up(limiter, ["a", "b", "c"], out=out)
        loop.ns += S
        limiter.serve()
        limiter.freeze(10, "418")
        limiter.freeze(4, "429")
        tasks += await line_up(limiter, ["order"], Lane.ORDER, out=out)
        assert out == []
        assert not limiter.try_acquire(0, Lane.ORDER)
        assert limiter.stats().frozen_s == pytest.approx(10)
        await tasks[3]
        assert loop.ns - started_ns == pytest.approx(11 * S, abs=2 * MS)
        await asyncio.gather(*tasks)
        assert out == ["order", "a", "b", "c"], "and nobody lost his place"

    loop.run_until_complete(run())
    assert told == [(10, "418")], "the shorter one changes nothing, so it is not told"


def test_freezes_until_a_time_of_the_exchange(loop):
    limiter = limiter_on(loop, Rule(1, S))
    limiter.freeze_until(1_700_000_060_000, now_ms=1_700_000_000_000)
    assert limiter.stats().frozen_s == 60
    limiter.freeze_until(1_700_000_000_000, now_ms=1_700_000_060_000)
    assert limiter.stats().frozen_s == 60
    limiter.reset()
    assert limiter.try_acquire()


def test_a_faster_exchange_counts_in_its_own_time(loop):
    limiter = Limiter(rules_from_table([(100, 60_000)], rate=60, order_share=0), lambda: loop.ns, rate=60)
    assert limiter.stats().rules[0].window_s == 60
    assert limiter.observe_used(30, 60_000, age_ms=30_000) == 30
    assert limiter.try_acquire(70)
    assert limiter.wait_time() == pytest.approx(1.01)
    limiter.freeze(600)
    assert limiter.wait_time() == 10
    assert limiter.stats().frozen_s == pytest.approx(600)


def test_new_rules_let_waiters_go(loop):
    async def run():
        limiter, out = limiter_on(loop, Rule(1, 3600 * S)), []
        limiter.try_acquire()
        tasks = await line_up(limiter, ["a", "b"], out=out)
        limiter.configure([Rule(2, 3600 * S)])
        await settle()
        assert out == ["a"]
        limiter.configure([])
        await asyncio.gather(*tasks)

    loop.run_until_complete(run())


def test_debits_and_headers_delay_waiters(loop):
    async def run():
        limiter = limiter_on(loop, *rules_from_table([(6000, 60_000)], margin_ms=0, order_share=0))
        limiter.debit(1000)
        assert limiter.observe_used(5990, 60_000) == 4990
        started_ns = loop.ns
        await limiter.acquire(20)
        assert loop.ns - started_ns == pytest.approx(60 * S, abs=2 * MS)
        stats = limiter.stats()
        assert stats.external_weight == 5990
        assert (stats.waits, stats.longest_wait_s) == (1, pytest.approx(60, abs=0.01))

    loop.run_until_complete(run())


def test_a_loop_that_closes_with_waiters_leaves_nothing_behind():
    limiter = Limiter([Rule(2, 50 * MS)])
    limiter.try_acquire(2)
    loop = asyncio.new_event_loop()

    async def abandon():
        return [asyncio.ensure_future(limiter.acquire(2)) for _ in range(3)]

    tasks = loop.run_until_complete(abandon())
    loop.run_until_complete(asyncio.sleep(0))
    assert waiting(limiter) == (0, 0, 3)
    # Nobody's fault but the test's: the loop ends with its tasks neither finished nor cancelled.
    loop.set_exception_handler(lambda *_: None)
    for task in tasks:
        task._log_destroy_pending = False
    gone = weakref.ref(loop)
    loop.close()
    assert limiter.acquire_blocking(2, timeout=5), "others still get their turn"
    assert waiting(limiter) == (0, 0, 0)
    assert not limiter._sides
    del loop, task, tasks
    gc.collect()
    assert gone() is None


def test_a_coroutine_that_is_collected_gives_up_its_place():
    limiter = Limiter([Rule(1, 3600 * S)])
    limiter.try_acquire()
    loop = asyncio.new_event_loop()

    async def begin():
        waiter = limiter.acquire()
        with pytest.raises(asyncio.InvalidStateError):
            waiter.send(None).result()
        assert waiting(limiter) == (0, 0, 1)
        del waiter
        gc.collect()
        assert waiting(limiter) == (0, 0, 0)
        assert not limiter._sides

    loop.run_until_complete(begin())
    loop.close()


def test_two_loops_share_one_budget():
    limiter = Limiter([Rule(20, 100 * MS)])
    sent = []

    async def use():
        async def one():
            await limiter.acquire()
            sent.append((time.monotonic_ns(), 1))

        await asyncio.gather(*(one() for _ in range(60)))

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(sent) == 120
    assert limiter.stats().calls == 120
    assert not limiter._sides


class Stamps:
    """The real clock, which remembers for each thread when it was last asked: the moment of a thread's grant."""

    def __init__(self):
        self.local = threading.local()

    def __call__(self):
        self.local.ns = time.monotonic_ns()
        return self.local.ns


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_threads_keep_every_window(threads):
    stamps, limit, window_ns = Stamps(), 40, 200 * MS
    limiter = Limiter([Rule(limit, window_ns)], clock_ns=stamps)
    sent, quota = [], 120 // threads

    def run():
        for _ in range(quota):
            assert limiter.acquire_blocking(timeout=30)
            sent.append((stamps.local.ns, 1))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    started_ns = time.monotonic_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    took_ns = time.monotonic_ns() - started_ns
    assert len(sent) == quota * threads
    assert most_in_any_window(sent, window_ns) <= limit
    assert took_ns >= window_ns * 2
    assert waiting(limiter) == (0, 0, 0)
    assert not limiter._threads


def test_threads_are_served_in_turn():
    limiter = Limiter([Rule(1, 20 * MS)])
    limiter.freeze(0.2)
    out, workers = [], []

    def run(name):
        limiter.acquire_blocking(timeout=10)
        out.append(name)

    for name in range(8):
        workers.append(threading.Thread(target=run, args=(name,)))
        workers[-1].start()
        wait_until(lambda name=name: waiting(limiter)[2] == name + 1, 10)
    for worker in workers:
        worker.join(10)
    assert out == list(range(8))


def test_threads_and_a_loop_take_turns():
    limiter = Limiter([Rule(5, 30 * MS)])
    counts = {"thread": 0, "loop": 0}

    def block():
        while limiter.stats().calls < 60:
            limiter.acquire_blocking(timeout=10)
            counts["thread"] += 1

    async def wait():
        while limiter.stats().calls < 60:
            await limiter.acquire()
            counts["loop"] += 1

    worker = threading.Thread(target=block)
    worker.start()
    asyncio.run(wait())
    worker.join(10)
    assert min(counts.values()) >= 5


def test_a_blocking_wait_ends_in_time_and_takes_nothing():
    limiter = Limiter([Rule(1, 3600 * S)])
    assert limiter.acquire_blocking()
    assert not limiter.acquire_blocking(timeout=0)
    started_s = time.monotonic()
    assert not limiter.acquire_blocking(timeout=0.05)
    assert 0.05 <= time.monotonic() - started_s < 5
    assert waiting(limiter) == (0, 0, 0)
    assert limiter.stats().calls == 1


def test_the_next_thread_leads_when_the_leader_gives_up():
    limiter = Limiter([Rule(1, 400 * MS)])
    limiter.try_acquire()
    got = []
    first = threading.Thread(target=lambda: got.append(limiter.acquire_blocking(timeout=0.2)))
    first.start()
    wait_until(lambda: waiting(limiter)[2] == 1, 10)
    second = threading.Thread(target=lambda: got.append(limiter.acquire_blocking(timeout=10)))
    second.start()
    first.join(10)
    second.join(10)
    assert got == [False, True]


def test_a_release_wakes_a_sleeping_thread():
    limiter = Limiter([Rule(1, 3600 * S)])
    limiter.try_acquire()
    worker = threading.Thread(target=limiter.acquire_blocking)
    worker.start()
    wait_until(lambda: waiting(limiter)[2] == 1, 10)
    limiter.reset()
    worker.join(10)
    assert not worker.is_alive()


class Interrupted(BaseException):
    """What Ctrl-C raises, under a name that nothing else uses."""


def interrupted_at(which, call):
    """Run `call` and interrupt it before the line of the limiter that is executed as number `which`.

    An interpreter looks for interrupts after calls and jumps back only: so none comes at a bare ``try:``, when a
    ``with`` is left, or between entering a ``finally`` and its first call, which is ``leave``.
    """
    lines = pathlib.Path(limiter_module.__file__).read_text().splitlines()
    left = [which]

    def trace(frame, event, _):
        if frame.f_code.co_filename != limiter_module.__file__:
            return None
        line = lines[frame.f_lineno - 1]
        if event == "line" and not any(text in line for text in ("try:", "with self._turn", "budget.leave(place)")):
            left[0] -= 1
            if left[0] == 0:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_harms_nobody():
    interrupted = 0
    for which in range(1, 140):
        limiter = Limiter([Rule(1, 5 * MS)])
        got = []

        def work(limiter=limiter, got=got):
            # After the main thread, so that it leads; or never mind where it is gone already.
            while not limiter._threads and not got:
                time.sleep(0)
            got.append(limiter.acquire_blocking(timeout=5))

        other = threading.Thread(target=work)
        other.start()
        limiter.try_acquire()
        interrupted += interrupted_at(which, limiter.acquire_blocking)
        got.append("over")
        other.join(10)
        assert True in got, which
        stats = limiter.stats()
        assert stats.waiting == (0, 0, 0), which
        assert stats.rules[0].promised == 0, which
        assert not limiter._threads, which
        assert limiter.acquire_blocking(timeout=5), which
    assert interrupted > 60, "on a busy machine some of the calls need not wait and run through fewer lines"


def test_blocking_the_loop_is_refused():
    limiter = Limiter([Rule(1, S)])

    async def use():
        assert limiter.acquire_blocking(), "with room it does not block"
        with pytest.raises(ConfigError, match="await acquire"):
            limiter.acquire_blocking()

    asyncio.run(use())


def test_lanes_belong_to_a_context():
    def inside():
        assert LANE.get() is Lane.HISTORY
        with in_lane(Lane.ORDER, orders=1):
            assert LANE.get() is Lane.ORDER
            with in_lane(Lane.LIVE):
                assert LANE.get() is Lane.LIVE
            assert LANE.get() is Lane.ORDER
        assert LANE.get() is Lane.HISTORY

    contextvars.Context().run(inside)


def test_ccxts_asynchronous_class_waits_here(loop):
    class Offline(ccxt.async_support.binance):
        async def fetch(self, *_args, **_kwargs):
            return []

    async def run():
        exchange = Offline({"asyncio_loop": loop})
        limiter = limiter_on(loop, *rules_from_table([(6000, 60_000)], order_share=0))
        exchange.throttler = AsyncThrottle(limiter, weight_per_cost(6000, 60_000, exchange.rateLimit))
        exchange.open()
        await exchange.public_get_klines({"symbol": "BTCUSDT", "limit": 1000})
        assert limiter.stats().weight == 2
        with in_lane(Lane.ORDER):
            await exchange.public_get_exchangeinfo()
        assert limiter.stats().weight == 22
        limiter.debit(5970)
        started_ns = loop.ns
        await asyncio.gather(*(exchange.public_get_klines({"symbol": "BTCUSDT"}) for _ in range(10)))
        assert loop.ns - started_ns >= 60 * S
        assert limiter.stats().calls == 12
        await exchange.close()

    loop.run_until_complete(run())


def test_ccxts_synchronous_class_waits_here():
    class Offline(ccxt.binance):
        def fetch(self, *_args, **_kwargs):
            return []

    exchange = Offline()
    limiter = Limiter(rules_from_table([(100, 100)], margin_ms=0))
    exchange.throttle = SyncThrottle(limiter, 5.0)
    for _ in range(60):
        exchange.public_get_klines({"symbol": "BTCUSDT"})
    assert limiter.stats().weight == 120
    assert limiter.stats().waits > 0


def test_an_order_is_charged_to_the_key_too(loop):
    async def run():
        requests, orders = limiter_on(loop, Rule(3, S)), limiter_on(loop, Rule(2, 10 * S, per_call=True))
        throttle = AsyncThrottle(requests, orders=orders)
        await throttle(1)
        assert orders.stats().calls == 0
        with in_lane(Lane.ORDER, orders=1):
            await throttle(1)
            await throttle()
            started_ns = loop.ns
            await throttle(1)
        assert loop.ns - started_ns == pytest.approx(10 * S, abs=2 * MS)
        assert (requests.stats().calls, orders.stats().calls) == (4, 3)

    loop.run_until_complete(run())


def test_an_order_that_waits_for_the_address_is_stamped_again(loop):
    async def run():
        requests, orders = limiter_on(loop, Rule(1, 8 * S)), limiter_on(loop, Rule(3, 10 * S))
        throttle = AsyncThrottle(requests, orders=orders)
        with in_lane(Lane.ORDER, orders=1):
            await throttle()
            await throttle()
        assert orders.stats().rules[0].used == 3
        loop.ns += 3 * S
        assert orders.stats().rules[0].used == 1, "it went out 8 s after it was first counted"

    loop.run_until_complete(run())


def test_a_synchronous_order_is_charged_to_the_key_too():
    requests, orders = Limiter([Rule(1, 30 * MS)]), Limiter([Rule(9, 3600 * S)])
    throttle = SyncThrottle(requests, orders=orders)
    with in_lane(Lane.ORDER, orders=2):
        throttle()
        throttle(1)
    assert orders.stats().calls == 2
    assert orders.stats().rules[0].used == 6


def test_windows_from_what_is_known():
    binance, day = rules_from_table([(6000, 60_000), (200_000, 86_400_000)])
    assert (binance.limit, binance.window_ns, binance.margin_ns) == (6000, 60 * S, 300 * MS)
    assert (binance.order_reserve, binance.burst) == (60, None)
    assert day.margin_ns == S
    assert rules_from_table([(10, 1000)])[0].order_reserve == 0
    assert rules_from_table([(10, 50)])[0].margin_ns == 5 * MS
    assert rules_from_table([(10, 1000)], margin_ms=30, rate=10)[0].margin_ns == 30 * MS
    assert [(rule.limit, rule.window_ns) for rule in rules_from_ccxt(50)] == [(20, S)]
    assert [(rule.limit, rule.window_ns) for rule in rules_from_ccxt(110)] == [(9, 990 * MS)]
    assert [(rule.limit, rule.window_ns) for rule in rules_from_ccxt(3000)] == [(1, 3 * S)]
    assert rules_from_ccxt(0) == ()
    assert weight_per_cost(6000, 60_000, 50) == 5
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            rules_from_ccxt(wrong)
    with pytest.raises(ConfigError):
        rules_from_table([(10, 0)])
    with pytest.raises(ConfigError):
        Limiter.of([(10, 1000)], rate=0)


def test_a_limiter_of_what_is_known():
    assert Limiter.of([(6000, 60_000)]).stats().rules[0].limit == 6000
    assert Limiter.of([], rate_limit_ms=100).stats().rules[0].limit == 10
    assert Limiter.of([]).stats().rules == ()
    assert Limiter.of([(100, 10_000)], per_call=True, rate=10).stats().rules[0].per_call

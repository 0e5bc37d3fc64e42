"""What cures which error: through ccxt's own error handling where it words the error, and the loop that retries."""

import asyncio
import json
import random
import socket
import threading
import time

import aiohttp
import ccxt
import ccxt.async_support
import pytest

from ccxtbt.errors import ConfigError, DataError, OrderRefusedError, OutcomeUnknownError, TryLaterError
from ccxtbt.exchange.limiter import Limiter, Rule
from ccxtbt.exchange.retry import LONGEST_FREEZE_S, Remedy, classify, freeze_s, retry_with_backoff

URL = "https://api.binance.com/api/v3/order"
NOW_MS = 1_700_000_000_000


def answered(status, body, reason="", exchange=None, authenticated=False):
    """The exception that ccxt's own binance class makes of an answer."""
    exchange = exchange or ccxt.binance({"options": {"hasAlreadyAuthenticatedSuccessfully": authenticated}})
    text = body if isinstance(body, str) else json.dumps(body)
    parsed = None if isinstance(body, str) else body
    try:
        exchange.handle_errors(status, reason, URL, "POST", {}, text, parsed, {}, None)
        exchange.handle_http_status_code(status, reason, URL, "POST", text)
    except ccxt.BaseError as caught:
        return caught
    raise AssertionError("ccxt finds nothing wrong with this answer")


def error(code, message="x"):
    return {"code": code, "msg": message}


BANNED = error(
    -1003, f"Way too much request weight used; IP banned until {NOW_MS + 90_000}. Please use WebSocket Streams."
)

# answer -> (remedy of a question, remedy of an order's creation)
ANSWERS = [
    (429, error(-1003, "Too much request weight used"), Remedy.FREEZE, Remedy.FREEZE),
    (418, BANNED, Remedy.FREEZE, Remedy.FREEZE),
    (400, error(-1003, "Too many requests"), Remedy.FREEZE, Remedy.FREEZE),
    (400, error(-1015, "Too many new orders"), Remedy.FREEZE, Remedy.FREEZE),
    (500, "Internal Server Error", Remedy.RETRY, Remedy.UNKNOWN),
    (502, "<html>Bad Gateway</html>", Remedy.RETRY, Remedy.UNKNOWN),
    (520, "", Remedy.RETRY, Remedy.UNKNOWN),
    (403, "<html>blocked</html>", Remedy.FREEZE, Remedy.UNKNOWN),
    (451, "<html>not from here</html>", Remedy.NEVER, Remedy.UNKNOWN),
    (404, "<html>no such page</html>", Remedy.NEVER, Remedy.UNKNOWN),
    (
        503,
        error(-1001, "Internal error; unable to process your request. Please try again."),
        Remedy.RETRY,
        Remedy.UNKNOWN,
    ),
    (504, error(-1007, "Timeout waiting for response from backend server."), Remedy.RETRY, Remedy.UNKNOWN),
    (400, error(-1021, "Timestamp for this request is outside of the recvWindow."), Remedy.RETRY, Remedy.RETRY),
    (400, error(-2013, "Order does not exist."), Remedy.NEVER, Remedy.NEVER),
    (400, error(-2011, "Unknown order sent."), Remedy.NEVER, Remedy.NEVER),
    (400, error(-2010, "Account has insufficient balance for requested action."), Remedy.NEVER, Remedy.NEVER),
    (400, error(-2010, "Duplicate order sent."), Remedy.NEVER, Remedy.UNKNOWN),
    (400, error(-1013, "Filter failure: NOTIONAL"), Remedy.NEVER, Remedy.NEVER),
    (400, error(-1013, "Filter failure: LOT_SIZE"), Remedy.NEVER, Remedy.NEVER),
    (401, error(-2014, "API-key format invalid."), Remedy.NEVER, Remedy.NEVER),
    (400, error(-99_999, "nobody knows this code"), Remedy.NEVER, Remedy.UNKNOWN),
]


@pytest.mark.parametrize(("status", "body", "question", "order"), ANSWERS)
def test_answers_of_binance(status, body, question, order):
    caught = answered(status, body)
    assert classify(caught, now_ms=NOW_MS).remedy is question, repr(caught)
    assert classify(caught, creates_order=True, now_ms=NOW_MS).remedy is order, repr(caught)


def test_a_refused_key_is_not_taken_for_a_ban():
    caught = answered(400, error(-2015, "Invalid API-key, IP, or permissions for action."), authenticated=True)
    assert isinstance(caught, ccxt.DDoSProtection)
    assert classify(caught).remedy is Remedy.NEVER


def test_a_ban_is_read_to_its_end():
    cure = classify(answered(418, BANNED), {"Retry-After": "30"}, now_ms=NOW_MS)
    assert cure.after_s == 90
    assert not cure.orders_only
    assert classify(answered(418, "teapot")).after_s == 120
    assert classify(answered(429, "slow down"), {"retry-after": "7"}).after_s == 7


def test_too_many_orders_hold_orders_only():
    assert classify(answered(400, error(-1015, "Too many new orders"))).orders_only
    assert not classify(answered(429, error(-1003))).orders_only


def test_a_wrong_clock_is_set_first():
    assert classify(answered(400, error(-1021))).resync_clock
    assert not classify(answered(500, "")).resync_clock


def test_retry_after_of_a_server_that_is_down():
    assert classify(answered(503, "maintenance"), {"Retry-After": "12"}).after_s == 12
    assert classify(ccxt.RequestTimeout("x"), {"Retry-After": "12"}).after_s == 0, "an older answer's header"


ALL_CLASSES = [value for value in vars(ccxt).values() if isinstance(value, type) and issubclass(value, ccxt.BaseError)]


@pytest.mark.parametrize("kind", ALL_CLASSES)
def test_every_class_of_ccxt_has_a_cure_and_orders_are_safe(kind):
    question, order = classify(kind("x")), classify(kind("x"), creates_order=True)
    if issubclass(kind, ccxt.OperationFailed) and kind is not ccxt.CancelPending:
        assert question.remedy in (Remedy.RETRY, Remedy.FREEZE)
    else:
        assert question.remedy in (Remedy.NEVER, Remedy.UNKNOWN)
    if order.remedy in (Remedy.RETRY, Remedy.FREEZE):
        # Nothing else proves that the order never reached matching.
        assert issubclass(kind, ccxt.DDoSProtection | ccxt.RateLimitExceeded | ccxt.InvalidNonce)


@pytest.mark.parametrize(
    ("caught", "question", "order"),
    [
        (DataError("html"), Remedy.RETRY, Remedy.UNKNOWN),
        (TryLaterError("x"), Remedy.RETRY, Remedy.UNKNOWN),
        (ConfigError("x"), Remedy.NEVER, Remedy.NEVER),
        (OrderRefusedError("x"), Remedy.NEVER, Remedy.NEVER),
        (OutcomeUnknownError("x"), Remedy.UNKNOWN, Remedy.UNKNOWN),
        (TimeoutError(), Remedy.RETRY, Remedy.UNKNOWN),
        (ConnectionResetError(), Remedy.RETRY, Remedy.UNKNOWN),
        (ConnectionRefusedError(), Remedy.RETRY, Remedy.RETRY),
        (socket.gaierror(), Remedy.RETRY, Remedy.RETRY),
        (aiohttp.ServerDisconnectedError(), Remedy.RETRY, Remedy.UNKNOWN),
        (TypeError("a mistake"), Remedy.NEVER, Remedy.UNKNOWN),
        (KeyboardInterrupt(), Remedy.NEVER, Remedy.UNKNOWN),
    ],
)
def test_other_errors(caught, question, order):
    assert classify(caught).remedy is question
    assert classify(caught, creates_order=True).remedy is order


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def rude_server():
    """Takes requests and answers half of what it promised (GET), or nothing (POST)."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                if client.recv(65_536).startswith(b"GET"):
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[[1")

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def asynchronous(method, port):
    async def use():
        async with ccxt.async_support.binance() as exchange:
            with pytest.raises(ccxt.BaseError) as caught:
                await exchange.fetch(f"http://127.0.0.1:{port}/x", method)
            return caught.value

    return asyncio.run(use())


def synchronous(method, port):
    with pytest.raises(ccxt.BaseError) as caught:
        ccxt.binance().fetch(f"http://127.0.0.1:{port}/x", method)
    return caught.value


@pytest.mark.parametrize("ask", [asynchronous, synchronous])
def test_a_connection_that_never_came_about_may_be_tried_again_even_for_an_order(ask, closed_port):
    caught = ask("POST", closed_port)
    assert classify(caught).remedy is Remedy.RETRY
    assert classify(caught, creates_order=True).remedy is Remedy.RETRY


@pytest.mark.parametrize("ask", [asynchronous, synchronous])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_answer_leaves_an_order_unknown(ask, method, rude_server):
    caught = ask(method, rude_server)
    assert classify(caught).remedy is Remedy.RETRY, repr(caught)
    assert classify(caught, creates_order=True).remedy is Remedy.UNKNOWN


def test_an_older_error_in_the_context_proves_nothing():
    lost = aiohttp.ServerDisconnectedError()
    lost.__context__ = ConnectionRefusedError()
    caught = ccxt.ExchangeNotAvailable("binance POST x")
    caught.__cause__ = lost
    assert classify(caught, creates_order=True).remedy is Remedy.UNKNOWN


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        (None, "", None),
        ({}, "nothing", None),
        ({"Retry-After": "5"}, "", 5),
        ({"RETRY-AFTER": "2.5"}, "", 2.5),
        ({"Retry-After": "-5"}, "", 0),
        ({"Retry-After": "soon"}, "", None),
        ({"Retry-After": "nan"}, "", None),
        ({"Retry-After": "1e300"}, "", LONGEST_FREEZE_S),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, "", 30),
        ({"X-Bapi-Limit-Reset-Timestamp": str(NOW_MS + 4000)}, "", 4),
        ({"Retry-After": "5"}, f"IP banned until {NOW_MS + 60_000}", 60),
        (None, f"IP banned until {NOW_MS - 60_000}", 0),
    ],
)
def test_what_the_exchange_asks_for(headers, text, seconds):
    assert freeze_s(headers, text, NOW_MS) == seconds


class Flaky:
    """Fails so many times, then works; notes when it was called."""

    def __init__(self, failures, failure=None):
        self.failures = failures
        self.failure = failure or ccxt.NetworkError("x")
        self.calls = 0

    def work(self, value):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.failure
        return value

    async def work_async(self, value):
        return self.work(value)


def run_sync(policy, flaky):
    return policy(flaky.work)("result")


def run_async(policy, flaky):
    return asyncio.run(policy(flaky.work_async)("result"))


both = pytest.mark.parametrize("run", [run_sync, run_async])


@both
def test_retries_until_it_works(run):
    flaky = Flaky(2)
    assert run(retry_with_backoff(retries=3, base_delay=0), flaky) == "result"
    assert flaky.calls == 3


@both
@pytest.mark.parametrize("name", ["retries", "max_retries"])
def test_raises_the_last_error_when_the_attempts_are_used_up(run, name):
    flaky = Flaky(99)
    with pytest.raises(ccxt.NetworkError):
        run(retry_with_backoff(**{name: 4}, base_delay=0), flaky)
    assert flaky.calls == 4


@both
def test_three_attempts_by_default_and_one_at_least(run):
    for chosen, calls in ((None, 3), (1, 1), (0, 1)):
        flaky = Flaky(99)
        with pytest.raises(ccxt.NetworkError):
            run(retry_with_backoff(chosen, base_delay=0), flaky)
        assert flaky.calls == calls


@both
@pytest.mark.parametrize(
    "failure", [ccxt.BadSymbol("x"), ccxt.CancelPending("x"), OutcomeUnknownError("x"), TypeError()]
)
def test_what_a_retry_does_not_cure_is_raised_at_once(run, failure):
    flaky = Flaky(1, failure)
    with pytest.raises(type(failure)):
        run(retry_with_backoff(base_delay=0), flaky)
    assert flaky.calls == 1


@both
def test_the_caller_may_say_which_errors(run):
    flaky = Flaky(2, KeyError("x"))
    assert run(retry_with_backoff(3, 0, exceptions=(KeyError,)), flaky) == "result"
    flaky = Flaky(1, ccxt.NetworkError("x"))
    with pytest.raises(ccxt.NetworkError):
        run(retry_with_backoff(3, 0, exceptions=KeyError), flaky)


@both
def test_what_is_no_error_passes(run):
    for interruption in (KeyboardInterrupt, SystemExit):
        flaky = Flaky(1, interruption())
        with pytest.raises(interruption):
            run(retry_with_backoff(3, 0, exceptions=BaseException), flaky)
        assert flaky.calls == 1


class VirtualPauses:
    """A stop event that is never set and whose waits take no time, and the clock that goes with it."""

    def __init__(self):
        self.now_s = 0.0
        self.pauses = []

    def is_set(self):
        return False

    def wait(self, timeout):
        self.pauses.append(timeout)
        self.now_s += timeout
        return False

    def clock(self):
        return self.now_s


def test_pauses_are_full_jitter_under_a_doubling_ceiling():
    dice = random.Random(7)
    ceilings = [1, 2, 4, 8, 10, 10, 10]
    seen = [[] for _ in ceilings]
    for _ in range(300):
        time_ = VirtualPauses()
        policy = retry_with_backoff(8, 1, 10, stop=time_, clock=time_.clock, random=dice.random)
        with pytest.raises(ccxt.NetworkError):
            policy(Flaky(99).work)(0)
        assert len(time_.pauses) == 7
        for i, pause_s in enumerate(time_.pauses):
            seen[i].append(pause_s)
    for ceiling_s, pauses in zip(ceilings, seen, strict=True):
        assert min(pauses) < 0.1 * ceiling_s
        assert 0.9 * ceiling_s < max(pauses) <= ceiling_s
        assert sum(pauses) / len(pauses) == pytest.approx(ceiling_s / 2, rel=0.15)


def test_what_the_exchange_asked_for_comes_before_the_jitter():
    time_ = VirtualPauses()

    exchange = Flaky(1, ccxt.RateLimitExceeded("x"))
    exchange.last_response_headers = {"Retry-After": "33"}
    policy = retry_with_backoff(stop=time_, clock=time_.clock, random=lambda: 0.5)
    assert policy(exchange.work)("fine") == "fine"
    assert time_.pauses == [33.5]


def test_no_attempt_begins_after_the_deadline():
    time_ = VirtualPauses()
    flaky = Flaky(99)
    policy = retry_with_backoff(99, 1, 4, deadline_s=20, stop=time_, clock=time_.clock, random=lambda: 1.0)
    with pytest.raises(ccxt.NetworkError):
        policy(flaky.work)(0)
    assert time_.pauses == [1, 2, 4, 4, 4, 4]
    assert flaky.calls == 7


@both
def test_a_ban_freezes_the_limiter_for_everybody(run):
    limiter = Limiter([Rule(1, 1_000_000_000)])
    told = []
    limiter.on_freeze = lambda seconds, reason: told.append((seconds, reason))
    failure = ccxt.DDoSProtection(f"binance 418 I'm a teapot IP banned until {int(time.time() * 1000) + 60_000}")
    with pytest.raises(ccxt.DDoSProtection):
        run(retry_with_backoff(1, limiter=limiter), Flaky(1, failure))
    assert 50 < limiter.stats().frozen_s <= 60
    assert "418" in told[0][1]


def test_too_many_orders_do_not_freeze_requests():
    limiter = Limiter([Rule(1, 1_000_000_000)])
    with pytest.raises(ccxt.RateLimitExceeded):
        retry_with_backoff(1, limiter=limiter)(Flaky(1, answered(400, error(-1015, "Too many new orders"))).work)(0)
    assert limiter.stats().frozen_s == 0


def test_stop_ends_a_pause():
    stop, entered = threading.Event(), threading.Event()
    caught = []

    def work():
        entered.set()
        raise ccxt.NetworkError("x")

    def call():
        with pytest.raises(ccxt.NetworkError) as error:
            retry_with_backoff(9, 3600, 3600, stop=stop, random=lambda: 1.0)(work)()
        caught.append(error.value)

    worker = threading.Thread(target=call)
    worker.start()
    assert entered.wait(10)
    stop.set()
    worker.join(10)
    assert len(caught) == 1


def test_a_coroutine_in_its_pause_can_be_cancelled():
    flaky = Flaky(99)

    async def use():
        policy = retry_with_backoff(9, 3600, 3600, random=lambda: 1.0)
        task = asyncio.create_task(policy(flaky.work_async)(0))
        await asyncio.sleep(0)
        assert flaky.calls == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert flaky.calls == 1


def test_the_decorated_function_keeps_its_name_and_its_kind():
    @retry_with_backoff(max_retries=2)
    async def fetch():
        """Fetch."""

    @retry_with_backoff()
    def ask():
        """Ask."""

    assert (fetch.__name__, fetch.__doc__, ask.__name__) == ("fetch", "Fetch.", "ask")
    assert asyncio.iscoroutinefunction(fetch)
    assert not asyncio.iscoroutinefunction(ask)


def test_arguments_that_contradict_are_refused():
    with pytest.raises(ConfigError, match="max_retries=4"):
        retry_with_backoff(retries=3, max_retries=4)
    retry_with_backoff(retries=3, max_retries=3)
    for wrong in (-1, float("nan")):
        with pytest.raises(ConfigError):
            retry_with_backoff(base_delay=wrong)

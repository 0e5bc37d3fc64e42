"""The budgets of this process: one for each way to an exchange, and within it one for the orders of each key.

Whatever asks an exchange from here shares them: feeds, brokers, downloads and the user's own calls. An answer that
tells how much has been used, or what the limits are, teaches them; one that asks to be left alone holds everybody.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ccxtbt.exchange.facts import Facts
from ccxtbt.exchange.limiter import Limiter, LimiterStats, Rule
from ccxtbt.exchange.retry import Remedy, classify
from ccxtbt.exchange.windows import rules_from_ccxt, rules_from_table

# The exchange counts by its own clock, which is known to some ms, and a request takes its time to get there.
_SLACK_MS: Final = 250.0
# Below this a nonce is in seconds: a timestamp, of which several calls may share one.
_FINE_NONCE: Final = 10**11
_INTERVAL_MS: Final = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}
_TOLD_LIMITS: Final = re.compile(r'"rateLimits"\s*:\s*(\[.*?\])')
_QUERY: Final = re.compile(r"\?\S*")

Listener = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class BudgetStats:
    """A budget at one moment.

    Attributes
    ----------
    exchange : str
        ccxt's name of the exchange.
    requests : LimiterStats
        What all callers of this process share.
    orders : LimiterStats
        New orders of one key.
    refusals : int
        Answers of the exchange that asked to be left alone, since the start.
    """

    exchange: str
    requests: LimiterStats
    orders: LimiterStats
    refusals: int


class Key:
    """What is counted for each key: its orders and its nonces.

    Attributes
    ----------
    orders : Limiter
        New orders.
    """

    def __init__(self, orders: Limiter) -> None:
        self.orders = orders
        self._lock = threading.Lock()
        self._last_nonce = 0

    def nonce(self, wanted: int) -> int:
        """Return `wanted`, or one more than the last where that is not less: none is given twice to one key."""
        if wanted < _FINE_NONCE:
            return wanted
        with self._lock:
            self._last_nonce = max(wanted, self._last_nonce + 1)
            return self._last_nonce


class Budget:
    """What may go out to one exchange from one address.

    Parameters
    ----------
    exchange_id : str
        ccxt's name of the exchange.
    facts : Facts
        What is known of its limits; the exchange's own word, once heard, goes before it.
    rate : float, default 1.0
        Exchange seconds that pass in one second here.
    """

    def __init__(self, exchange_id: str, facts: Facts, rate: float = 1.0) -> None:
        self.exchange_id = exchange_id
        self.facts = facts
        self.rate = rate
        self.refusals = 0
        self.requests = Limiter(self._rules(facts.rest_windows), on_freeze=self._frozen, rate=rate)
        self._listeners: dict[object, Listener] = {}
        self._order_windows: Sequence[tuple[float, float]] = facts.order_windows
        self._keys: dict[str, Key] = {}
        self._told: tuple[Any, ...] = ()
        self._lock = threading.Lock()
        self._readers: dict[str, Callable[[str, Key, float, float], None]] = {}
        if facts.used_weight_header:
            self._readers[facts.used_weight_header] = self._used
        for header, window_ms in facts.order_count_headers:
            self._readers[header] = self._counts(window_ms)

    def key(self, fingerprint: str) -> Key:
        """Return what is counted for one key.

        Parameters
        ----------
        fingerprint : str
            Tells keys apart, without showing them.
        """
        with self._lock:
            if fingerprint not in self._keys:
                rules = self._rules(self._order_windows, shared=False)
                self._keys[fingerprint] = Key(Limiter(rules, on_freeze=self._frozen, rate=self.rate))
            return self._keys[fingerprint]

    def keys(self) -> dict[str, Key]:
        """Return all keys by fingerprint."""
        with self._lock:
            return dict(self._keys)

    def stats(self, key: Key) -> BudgetStats:
        """Read the budget as one key has it."""
        return BudgetStats(self.exchange_id, self.requests.stats(), key.orders.stats(), self.refusals)

    def listen(self, owner: object, listener: Listener | None) -> None:
        """Have `listener` hear of freezes as (seconds, reason), in whose name it hears them; None ends that."""
        with self._lock:
            if listener is None:
                self._listeners.pop(owner, None)
            else:
                self._listeners[owner] = listener

    def pace(self, rate_limit_ms: float) -> None:
        """Take ccxt's ``rateLimit`` where nothing better is known."""
        if not self.facts.rest_windows and ("ccxt", rate_limit_ms) != self._told:
            self._told = ("ccxt", rate_limit_ms)
            self.requests.configure(rules_from_ccxt(rate_limit_ms / (1 - self.facts.safety), rate=self.rate))

    def socket(self) -> Limiter:
        """Make the budget of messages of one WebSocket connection."""
        windows = (self.facts.socket_messages,) if self.facts.socket_messages else ()
        return Limiter(self._rules(windows, shared=False), rate=self.rate)

    def answered(
        self, key: Key, url: str, headers: Mapping[str, str], body: str, sent_ms: float, now_ms: float
    ) -> None:
        """Learn from an answer how much has been used, and what the limits are.

        Parameters
        ----------
        key : Key
            Whose request it was.
        url : str
        headers : mapping of str to str
        body : str
        sent_ms, now_ms : float
            The exchange's time when the request went out, and now.
        """
        left = reset = ""
        for name, value in headers.items():
            small = name.lower()
            reader = self._readers.get(small)
            if reader is not None and value.isdecimal():
                reader(value, key, sent_ms, now_ms)
            elif small == self.facts.remaining_header:
                left = value
            elif small == self.facts.reset_header:
                reset = value
        if left == "0" and reset.isdecimal():
            wait_ms = float(reset) if self.facts.reset_counts_down else float(reset) - now_ms
            if wait_ms > 0:
                self.requests.freeze(wait_ms / 1000, "the exchange says that nothing is left until then")
        if self.facts.limits_path and url.split("?", 1)[0].endswith(self.facts.limits_path):
            self._learn(body)

    def refused(self, key: Key, error: Exception, headers: Mapping[str, str] | None, now_ms: float) -> None:
        """Hold all callers where an answer asks for it.

        Parameters
        ----------
        key : Key
            Whose request it was.
        error : Exception
            What ccxt made of the answer.
        headers : mapping of str to str or None
        now_ms : float
            The exchange's time.
        """
        cure = classify(error, headers, now_ms=now_ms)
        if cure.remedy is Remedy.FREEZE:
            self.refusals += 1
            held = key.orders if cure.orders_only else self.requests
            # Without the query, which carries the key's signature.
            held.freeze(cure.after_s, _QUERY.sub("", f"{type(error).__name__}: {error}"))

    def _rules(self, windows: Sequence[tuple[float, float]], *, shared: bool = True) -> tuple[Rule, ...]:
        share = 1 - self.facts.safety if shared else 1.0
        return rules_from_table(
            [(limit * share, window_ms) for limit, window_ms in windows],
            order_share=0.01 if shared else 0.0,
            live_share=0.005 if shared else 0.0,
            rate=self.rate,
        )

    def _used(self, value: str, key: Key, sent_ms: float, now_ms: float) -> None:
        self._observe(self.requests, float(value), self.facts.rest_windows[0][1], sent_ms, now_ms)

    def _counts(self, window_ms: float) -> Callable[[str, Key, float, float], None]:
        def read(value: str, key: Key, sent_ms: float, now_ms: float) -> None:
            self._observe(key.orders, float(value), window_ms, sent_ms, now_ms)

        return read

    def _observe(self, limiter: Limiter, used: float, window_ms: float, sent_ms: float, now_ms: float) -> None:
        slack_ms = min(_SLACK_MS * self.rate, window_ms / 4)
        # The count may be of the interval before: then it says nothing of this one.
        if (sent_ms - slack_ms) // window_ms == (now_ms + slack_ms) // window_ms:
            limiter.observe_used(used, window_ms, now_ms % window_ms + slack_ms)

    def _learn(self, body: str) -> None:
        """Take the limits that Binance's exchangeInfo tells, in its first lines."""
        found = _TOLD_LIMITS.search(body, 0, 10_000)
        if found is None:
            return
        told: dict[str, list[tuple[float, float]]] = {}
        for row in orjson.loads(found[1]):
            window_ms = _INTERVAL_MS.get(row["interval"], 0) * row["intervalNum"]
            if window_ms and row["limit"] > 0:
                told.setdefault(row["rateLimitType"], []).append((row["limit"], window_ms))
        fresh = tuple((kind, *windows) for kind, windows in sorted(told.items()))
        if fresh == self._told:
            return
        self._told = fresh
        if told.get("REQUEST_WEIGHT"):
            calls = rules_from_table(told.get("RAW_REQUESTS", ()), per_call=True, rate=self.rate)
            self.requests.configure((*self._rules(told["REQUEST_WEIGHT"]), *calls))
        if told.get("ORDERS"):
            with self._lock:
                self._order_windows = told["ORDERS"]
                for key in self._keys.values():
                    key.orders.configure(self._rules(self._order_windows, shared=False))

    def _frozen(self, seconds: float, reason: str) -> None:
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(seconds, reason)


_BUDGETS: dict[tuple[Any, ...], Budget] = {}
_LOCK = threading.Lock()


def budget_of(exchange_id: str, way: tuple[Any, ...], facts: Facts, rate: float = 1.0) -> Budget:
    """Return the budget that all callers of this process share on one way to an exchange; the first one makes it.

    Parameters
    ----------
    exchange_id : str
        ccxt's name of the exchange.
    way : tuple
        What tells addresses apart: test network, gateway, proxies.
    facts : Facts
        What is known of the limits.
    rate : float, default 1.0
        Exchange seconds that pass in one second here.
    """
    with _LOCK:
        return _BUDGETS.setdefault((exchange_id, way, rate), Budget(exchange_id, facts, rate))


def all_budgets() -> list[Budget]:
    """Return all budgets of this process, in the order in which they were first used."""
    with _LOCK:
        return list(_BUDGETS.values())


def _forget() -> None:
    """Begin anew in a forked child: whoever waited or held a lock is a thread of the parent."""
    global _LOCK  # the parent's lock may be held for ever
    _LOCK = threading.Lock()
    _BUDGETS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""Request weights, order counts and bans of Binance spot: the weights as a table, counted on the simulator's clock.

Counts run in fixed intervals of the clock (a minute, 10 s, a day), as Binance's do, and are kept per address for
weights and per account for orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ccxtbt.sim.binance_access import Refusal

MINUTE_MS = 60_000
Params = Mapping[str, str]
Weight = int | Callable[[Params], int]


def by_limit(default: int, *steps: tuple[int, int]) -> Weight:
    """Weight by ``limit``: the weight of the first step whose bound is not exceeded."""

    def weight(params: Params) -> int:
        text = params.get("limit", "")
        limit = int(text) if text.isdigit() else default
        return next((cost for bound, cost in steps if limit <= bound), steps[-1][1])

    return weight


def by_symbols(one: int, many: int, *, up_to_20: int | None = None, up_to_100: int | None = None) -> Weight:
    """Weight by how many symbols are asked for: one, some, or all (no symbol named)."""

    def weight(params: Params) -> int:
        if "symbol" in params:
            return one
        if "symbols" not in params:
            return many
        asked = params["symbols"].count(",") + 1
        if up_to_20 is not None and asked <= 20:
            return up_to_20
        return up_to_100 if up_to_100 is not None and asked <= 100 else many

    return weight


#: Weight of each request of the REST API by (method, path), of the ws-api by ('WS', method).
WEIGHTS: dict[tuple[str, str], Weight] = {
    ("GET", "/api/v3/ping"): 1,
    ("GET", "/api/v3/time"): 1,
    ("GET", "/api/v3/exchangeInfo"): 20,
    ("GET", "/api/v3/depth"): by_limit(100, (100, 5), (500, 25), (1000, 50), (5000, 250)),
    ("GET", "/api/v3/trades"): 25,
    ("GET", "/api/v3/historicalTrades"): 25,
    ("GET", "/api/v3/aggTrades"): 4,
    ("GET", "/api/v3/klines"): 2,
    ("GET", "/api/v3/uiKlines"): 2,
    ("GET", "/api/v3/ticker/24hr"): by_symbols(2, 80, up_to_20=2, up_to_100=40),
    ("GET", "/api/v3/ticker/price"): by_symbols(2, 4),
    ("GET", "/api/v3/ticker/bookTicker"): by_symbols(2, 4),
    ("GET", "/api/v3/account"): 20,
    ("GET", "/api/v3/account/commission"): 20,
    ("GET", "/api/v3/rateLimit/order"): 40,
    ("POST", "/api/v3/order"): 1,
    ("POST", "/api/v3/order/test"): 1,
    ("GET", "/api/v3/order"): 4,
    ("DELETE", "/api/v3/order"): 1,
    ("POST", "/api/v3/order/cancelReplace"): 1,
    ("POST", "/api/v3/order/oco"): 1,
    ("POST", "/api/v3/orderList/oco"): 1,
    ("POST", "/api/v3/orderList/oto"): 1,
    ("POST", "/api/v3/orderList/otoco"): 1,
    ("DELETE", "/api/v3/orderList"): 1,
    ("GET", "/api/v3/orderList"): 4,
    ("GET", "/api/v3/openOrderList"): 6,
    ("GET", "/api/v3/allOrderList"): 20,
    ("GET", "/api/v3/openOrders"): by_symbols(6, 80),
    ("DELETE", "/api/v3/openOrders"): 1,
    ("GET", "/api/v3/allOrders"): 20,
    ("GET", "/api/v3/myTrades"): lambda params: 5 if "orderId" in params else 20,
    ("WS", "connect"): 2,
    ("WS", "ping"): 1,
    ("WS", "time"): 1,
    ("WS", "userDataStream.subscribe.signature"): 2,
    ("WS", "userDataStream.unsubscribe"): 2,
    ("WS", "session.subscriptions"): 2,
    ("WS", "account.status"): 20,
    ("WS", "klines"): 2,
    ("WS", "trades.historical"): 25,
    ("WS", "order.place"): 1,
    ("WS", "order.test"): 1,
    ("WS", "order.status"): 4,
    ("WS", "order.cancel"): 1,
    ("WS", "orderList.place"): 1,
    ("WS", "orderList.place.oco"): 1,
    ("WS", "orderList.place.oto"): 1,
    ("WS", "orderList.place.otoco"): 1,
    ("WS", "orderList.cancel"): 1,
    ("WS", "orderList.status"): 4,
    ("WS", "openOrderLists.status"): 6,
    ("WS", "allOrderLists"): 20,
    ("WS", "openOrders.status"): by_symbols(6, 80),
    ("WS", "openOrders.cancelAll"): 1,
    ("WS", "allOrders"): 20,
    ("WS", "myTrades"): 20,
}


def weight_of(method: str, path: str, params: Params, weights: Mapping[tuple[str, str], Weight] = WEIGHTS) -> int:
    """Look up the weight of one request; what is not in the table weighs 1."""
    weight = weights.get((method, path), 1)
    return weight if isinstance(weight, int) else weight(params)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one address and one account may do; the defaults are Binance spot's.

    Parameters
    ----------
    weight_per_minute
        Request weight of an address in a minute of the clock.
    orders_per_10s, orders_per_day
        New orders of an account.
    refusals_before_ban
        429 answers that an address may cause within one minute; the next request brings a ban (418).
    ban_s
        Length of the first ban in seconds; each further one is twice as long, up to three days.
    ws_messages_per_s
        Messages that a client may send on one WebSocket connection in a second before it is disconnected.
    ws_streams
        Streams of one connection.
    ws_connects_per_5min
        WebSocket connections that an address may open in five minutes.
    ws_age_s
        Age in seconds at which the exchange closes a connection.
    ws_ping_s, ws_pong_s
        How often the exchange pings, and how long it waits for a pong before it disconnects, in seconds.
    """

    weight_per_minute: int = 6000
    orders_per_10s: int = 100
    orders_per_day: int = 200_000
    refusals_before_ban: int = 20
    ban_s: int = 120
    ws_messages_per_s: int = 5
    ws_streams: int = 1024
    ws_connects_per_5min: int = 300
    ws_age_s: float = 86_400.0
    ws_ping_s: float = 20.0
    ws_pong_s: float = 60.0


class Counter:
    """Counts of many keys within fixed intervals of the clock."""

    __slots__ = ("_counts", "_interval", "interval_ms")

    def __init__(self, interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self._interval = -1
        self._counts: dict[str, int] = {}

    def add(self, key: str, amount: int, now_ms: int) -> int:
        """Add to a key's count of the current interval and return it; ``amount=0`` only reads."""
        interval = now_ms // self.interval_ms
        if interval != self._interval:
            self._interval = interval
            self._counts.clear()
        count = self._counts.get(key, 0) + amount
        if amount:
            self._counts[key] = count
        return count

    def left_s(self, now_ms: int) -> int:
        """Return the whole seconds to the end of the interval, at least 1."""
        return max(1, -(-(self.interval_ms - now_ms % self.interval_ms) // 1000))


class Usage:
    """How much of its limits each address and account has used."""

    def __init__(self, limits: Limits, now_ms: Callable[[], int]) -> None:
        self.limits = limits
        self._now_ms = now_ms
        self._weights = Counter(MINUTE_MS)
        self._refusals = Counter(MINUTE_MS)
        self._connects = Counter(5 * MINUTE_MS)
        self._orders_10s = Counter(10_000)
        self._orders_day = Counter(1440 * MINUTE_MS)
        self._banned_until_ms: dict[str, int] = {}
        self._bans: dict[str, int] = {}

    def weight(self, address: str) -> int:
        """Return the weight that an address has used in the current minute."""
        return self._weights.add(address, 0, self._now_ms())

    def charge(self, address: str, weight: int) -> int:
        """Take the weight of one request.

        Returns
        -------
        int
            The weight used in the current minute, this request included.

        Raises
        ------
        Refusal
            429 with Retry-After when the minute's weight is used up, 418 when the address is, or now becomes, banned.
        """
        now_ms = self._now_ms()
        if now_ms < self._banned_until_ms.get(address, 0):
            raise self._ban(address, now_ms)
        used = self._weights.add(address, 0, now_ms)
        if used + weight <= self.limits.weight_per_minute:
            return self._weights.add(address, weight, now_ms)
        if self._refusals.add(address, 1, now_ms) > self.limits.refusals_before_ban:
            times = self._bans.get(address, 0)
            self._bans[address] = times + 1
            self._banned_until_ms[address] = now_ms + 1000 * min(self.limits.ban_s * 2**times, 3 * 86_400)
            raise self._ban(address, now_ms)
        raise Refusal(
            429,
            -1003,
            f"Too much request weight used; current limit is {self.limits.weight_per_minute} request weight per"
            " 1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API.",
            {"Retry-After": str(self._weights.left_s(now_ms))},
        )

    def _ban(self, address: str, now_ms: int) -> Refusal:
        until_ms = self._banned_until_ms[address]
        return Refusal(
            418,
            -1003,
            f"Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams for live"
            " updates to avoid bans.",
            {"Retry-After": str(max(1, -(-(until_ms - now_ms) // 1000)))},
        )

    def unban(self) -> None:
        """Lift all bans."""
        self._banned_until_ms.clear()

    def check_order(self, account: str, orders: int = 1) -> None:
        """Raise -1015 (429, no Retry-After) if the account may not place that many orders more now."""
        now_ms = self._now_ms()
        for counter, limit, name in (
            (self._orders_10s, self.limits.orders_per_10s, "10 SECOND"),
            (self._orders_day, self.limits.orders_per_day, "1 DAY"),
        ):
            if counter.add(account, 0, now_ms) + orders > limit:
                raise Refusal(429, -1015, f"Too many new orders; current limit is {limit} orders per {name}.")

    def count_order(self, account: str, orders: int = 1) -> None:
        """Count orders that were taken."""
        now_ms = self._now_ms()
        self._orders_10s.add(account, orders, now_ms)
        self._orders_day.add(account, orders, now_ms)

    def orders(self, account: str) -> tuple[int, int]:
        """Return the orders of an account in the current 10 s and in the current day."""
        now_ms = self._now_ms()
        return self._orders_10s.add(account, 0, now_ms), self._orders_day.add(account, 0, now_ms)

    def connect(self, address: str) -> None:
        """Count one WebSocket handshake; raise Refusal (429) where the address opens too many."""
        if self._connects.add(address, 1, self._now_ms()) > self.limits.ws_connects_per_5min:
            raise Refusal(429, -1003, "Too many connections; please reuse connections.")

    def rate_limits(self, address: str, account: str | None) -> list[dict[str, object]]:
        """Return the ``rateLimits`` of a ws-api answer."""
        rows: list[dict[str, object]] = [
            {**_rate("REQUEST_WEIGHT", "MINUTE", 1, self.limits.weight_per_minute), "count": self.weight(address)}
        ]
        if account is not None:
            in_10s, in_day = self.orders(account)
            rows.append({**_rate("ORDERS", "SECOND", 10, self.limits.orders_per_10s), "count": in_10s})
            rows.append({**_rate("ORDERS", "DAY", 1, self.limits.orders_per_day), "count": in_day})
        return rows

    def describe(self) -> list[dict[str, object]]:
        """Return the ``rateLimits`` of exchangeInfo."""
        return [
            _rate("REQUEST_WEIGHT", "MINUTE", 1, self.limits.weight_per_minute),
            _rate("ORDERS", "SECOND", 10, self.limits.orders_per_10s),
            _rate("ORDERS", "DAY", 1, self.limits.orders_per_day),
        ]


def _rate(kind: str, interval: str, number: int, limit: int) -> dict[str, object]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}

"""What goes wrong in a run of the books test: a schedule of faults that a seed fixes, by the n-th request and frame."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ccxtbt.sim.faults import Faults, Rule
from ccxtbt.sim.server import API_KEY, SimServer

LIST = "/api/v3/orderList"
# ccxt gives a request up after this long; by the exchange's clock, at `SPEED`, before a request's validity is over.
TIMEOUT_S = 0.8
SPEED = 8.0
GIVEN_UP_S = TIMEOUT_S * SPEED
VALIDITY_S = 10.0

Adds = Callable[..., Rule]


@dataclass(frozen=True)
class Venue:
    """Which of a simulator's two exchanges is traded on.

    Attributes
    ----------
    orders : tuple of str
        Paths of orders; the first is that of those without a trigger.
    trades : str
        Path of the account's trades.
    event : str
        What the account's stream calls a report of an order.
    own_ids : frozenset of str
        Parameters that name an order by our id.
    contracts : bool
        It is the futures exchange.
    """

    orders: tuple[str, ...] = ("/api/v3/order",)
    trades: str = "/api/v3/myTrades"
    event: str = "executionReport"
    own_ids: frozenset[str] = frozenset({"origClientOrderId"})
    contracts: bool = False

    def exchange(self, server: SimServer) -> Any:
        """Return the exchange; only the server's thread may touch it."""
        return server.contracts if self.contracts else server.exchange

    def report(self, event: Any) -> Any:
        """Return what an event of the account's stream says of an order."""
        return event["o"] if self.contracts else event


SPOT = Venue()
USDM = Venue(
    ("/fapi/v1/order", "/fapi/v1/algoOrder"),
    "/fapi/v1/userTrades",
    "ORDER_TRADE_UPDATE",
    frozenset({"origClientOrderId", "clientAlgoId"}),
    contracts=True,
)


class Troubles:
    """Rules on a server, most of them for one occurrence each, and how often each kind came to pass.

    Requests and frames are counted by their kind (new orders, cancels, look-ups, reports of orders, connects); a kind's
    faults are dealt like cards, so that each comes before one comes again.
    """

    def __init__(self, server: SimServer, seed: int, length: int, venue: Venue = SPOT) -> None:
        self._rng = random.Random(seed)
        self._server = server
        self._venue = venue
        self._rules: list[tuple[str, Rule]] = []
        faults = server.faults
        orders, cancels, look_ups = ({"path": venue.orders[0], "method": how} for how in ("POST", "DELETE", "GET"))
        trades = {"path": venue.trades}
        reports = {"stream": "user", "event": venue.event}
        broken: dict[str, Adds] = {
            f"5xx, {'taken' if taken else 'not taken'}": lambda taken=taken, **on: faults.server_error(
                self._rng.choice((500, 502, 503, 504)), taken=taken, **on
            )
            for taken in (True, False)
        }
        turned_away: dict[str, Adds] = {
            "-1021": faults.out_of_step,
            "429": lambda **on: faults.rate_limited(2, **on),
            "418": lambda **on: faults.banned(3, **on),
        }
        lists = () if venue.contracts else (("list", {"path": f"{LIST}/oco"}),)
        apart = [("order", {**orders, "path": path}) for path in venue.orders[1:]]
        for what, which in (("order", orders), *apart, *lists):
            self._deal(
                length,
                0.6,
                which,
                broken
                | turned_away
                | {
                    f"{what}: answer lost": faults.drop_answer,
                    f"{what}: answer late": lambda **on: faults.delay_answer(3, **on),
                    f"{what}: time-out, taken": lambda **on: faults.delay_answer(GIVEN_UP_S + 2, **on),
                    f"{what}: time-out, taken later": lambda **on: faults.delay_request(GIVEN_UP_S + 1, **on),
                    f"{what}: time-out, never taken": lambda **on: faults.delay_request(VALIDITY_S + 3, **on),
                    f"{what}: answer cut": lambda **on: faults.truncate(0.5, **on),
                    f"{what}: answer ends early": lambda **on: faults.truncate(0.5, cut=False, **on),
                    f"{what}: answer empty": faults.empty,
                    f"{what}: answer a page": lambda **on: faults.html(taken=True, **on),
                },
            )
        lists = () if venue.contracts else (("cancel of a list", {"path": LIST, "method": "DELETE"}),)
        apart = [("cancel", {**cancels, "path": path}) for path in venue.orders[1:]]
        for what, which in (("cancel", cancels), *apart, *lists):
            self._deal(
                length,
                0.6,
                which,
                broken
                | turned_away
                | {
                    f"{what}: answer lost": faults.drop_answer,
                    f"{what}: late": lambda **on: faults.delay_request(4, **on),
                    f"{what}: time-out": lambda **on: faults.delay_answer(GIVEN_UP_S + 2, **on),
                },
            )
        look_up_lost = {"look-up: time-out": lambda **on: faults.delay_answer(GIVEN_UP_S + 2, **on)}
        self._deal(10 * length, 0.05, look_ups, broken | look_up_lost)
        self._deal(5 * length, 0.1, trades, broken | {"trades: answer lost": faults.drop_answer})
        self._deal(
            4 * length,
            0.35,
            reports,
            {
                "report: twice": lambda **on: faults.duplicate(self._rng.choice((1, 2)), **on),
                "report: behind others": lambda **on: faults.reorder(self._rng.choice((1, 2, 3)), **on),
                "report: late": lambda **on: faults.delay(self._rng.choice((1, 4)), **on),
                "report: lost": faults.lose,
            },
        )
        # Beside whatever else happens to the same request: a fill that comes before the answer to its order, one that
        # comes before its order's cancel, and an order that cannot be seen just after it was made.
        for nth in self._every(length, 3):
            at_market = {**orders, "where": lambda params: params["type"] == "MARKET"}
            self._keep("order: fill before its answer", faults.delay_answer(2, nth=nth, **at_market))
        for nth in self._every(length, 3):
            self._keep("cancel: after fill", faults.fill_first(nth=nth, where=self._rests, **cancels))
        for nth in self._every(length, 2):
            by_our_id = {**look_ups, "where": lambda params: venue.own_ids & params.keys()}
            self._keep("-2013", faults.not_visible(nth=nth, **by_our_id))
        # A break loses the fill that would have come, and those of a while after it.
        for nth in self._every(length, 12):
            fill = {**reports, "where": lambda event: venue.report(event)["x"] == "TRADE"}
            self._keep("break", self._rng.choice((faults.abort, faults.close))(nth=nth, **fill))
        for nth in self._every(length, 3):
            self._keep("connect refused", faults.refuse_connect(socket="user", nth=nth, times=2))
        for nth in self._every(20 * length, 800):
            self._keep("break of the market", faults.abort(event="kline", nth=nth))

    @property
    def happened(self) -> Counter[str]:
        """How often each kind has come to pass; kinds that have not, as 0."""
        counts: Counter[str] = Counter()
        for kind, rule in self._rules:
            counts[kind] += rule.fired
        return counts

    @property
    def count(self) -> int:
        """How many faults have come to pass."""
        return sum(rule.fired for _, rule in self._rules)

    def _keep(self, kind: str, rule: Rule) -> None:
        self._rules.append((kind, rule))

    def _deal(self, length: int, share: float, on: dict[str, Any], cards: dict[str, Adds]) -> None:
        """Give a share of the occurrences a fault each."""
        hand: list[str] = []
        for nth in range(1, length + 1):
            if self._rng.random() < share:
                hand = hand or self._rng.sample(sorted(cards), len(cards))
                kind = hand.pop()
                self._keep(kind, cards[kind](nth=nth, **on))

    def _every(self, end: int, mean: int) -> Iterator[int]:
        """Yield rising numbers, about `mean` apart."""
        nth = self._rng.randint(1, mean)
        while nth < end:
            yield nth
            nth += self._rng.randint(mean // 2 + 2, 2 * mean)

    def _rests(self, params: Any) -> bool:
        """Whether the order that a cancel names rests on the book; asked on the server's thread."""
        exchange = self._venue.exchange(self._server)
        mine = exchange.open_orders(exchange.account(API_KEY), params["symbol"])
        named = (str(params.get("orderId")), params.get("origClientOrderId"))
        return any(order.working and (str(order.order_id) == named[0] or order.client_id == named[1]) for order in mine)


def tap(faults: Faults, hear: Callable[[Any], None], venue: Venue = SPOT) -> None:
    """Show what the account's stream says of orders to `hear`, and do nothing to it."""

    def look(event: Any) -> bool:
        hear(venue.report(event))
        return False

    faults.add(Rule("frame", "tap", match={"stream": "user", "event": venue.event}, where=look))

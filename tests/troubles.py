"""What goes wrong in a run of the books test: a schedule of faults that a seed fixes, by the n-th request and frame."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ccxtbt.sim.faults import Faults, Rule
from ccxtbt.sim.server import API_KEY, SimServer

ORDER = "/api/v3/order"
LIST = "/api/v3/orderList"
# ccxt gives a request up after this long; by the exchange's clock, at `SPEED`, before a request's validity is over.
TIMEOUT_S = 0.8
SPEED = 8.0
GIVEN_UP_S = TIMEOUT_S * SPEED
VALIDITY_S = 10.0

Adds = Callable[..., Rule]


class Troubles:
    """Rules on a server, most of them for one occurrence each, and how often each kind came to pass.

    Requests and frames are counted by their kind (new orders, cancels, look-ups, reports of orders, connects); a kind's
    faults are dealt like cards, so that each comes before one comes again.
    """

    def __init__(self, server: SimServer, seed: int, length: int) -> None:
        self._rng = random.Random(seed)
        self._server = server
        self._rules: list[tuple[str, Rule]] = []
        faults = server.faults
        orders = {"path": ORDER, "method": "POST"}
        cancels = {"path": ORDER, "method": "DELETE"}
        look_ups = {"path": ORDER, "method": "GET"}
        trades = {"path": "/api/v3/myTrades"}
        reports = {"stream": "user", "event": "executionReport"}
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
        for what, which in (("order", orders), ("list", {"path": f"{LIST}/oco"})):
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
        for what, which in (("cancel", cancels), ("cancel of a list", {"path": LIST, "method": "DELETE"})):
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
            by_our_id = {**look_ups, "where": lambda params: "origClientOrderId" in params}
            self._keep("-2013", faults.not_visible(nth=nth, **by_our_id))
        # A break loses the fill that would have come, and those of a while after it.
        for nth in self._every(length, 12):
            fill = {**reports, "where": lambda event: event["x"] == "TRADE"}
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
        exchange = self._server.exchange
        mine = exchange.open_orders(exchange.account(API_KEY), params["symbol"])
        named = (str(params.get("orderId")), params.get("origClientOrderId"))
        return any(order.working and (str(order.order_id) == named[0] or order.client_id == named[1]) for order in mine)


def tap(faults: Faults, hear: Callable[[Any], None]) -> None:
    """Show every event of the account's stream to `hear`, and do nothing to it."""

    def look(event: Any) -> bool:
        hear(event)
        return False

    faults.add(Rule("frame", "tap", match={"stream": "user", "event": "executionReport"}, where=look))

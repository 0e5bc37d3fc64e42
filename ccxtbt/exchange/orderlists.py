"""Order lists on the wire: two orders that end each other, as the exchanges that have them want them written.

ccxt has the endpoints and no word of its own for them. Each order is written by ccxt's own `create_order_request`, so
that its precision and its names are ccxt's, and the two are put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# symbol, type, side, amount, price, params: what ccxt's `create_order` takes.
Arguments = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ListForm:
    """How one exchange takes order lists.

    Attributes
    ----------
    place, cancel : str
        ccxt's methods of the endpoints.
    id_param : str
        Name of our id of the list, among the parameters of each of its orders and of the list's own requests.
    offered_by : str
        Flag of the exchange's own description of a market that says whether it takes lists.
    write : callable
        Makes the request from the two orders, each as ccxt writes it alone.
    reports : str
        Where an answer holds the orders.
    """

    place: str
    cancel: str
    id_param: str
    offered_by: str
    write: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    reports: str

    def offers(self, market: Mapping[str, Any]) -> bool:
        """Whether a market, in ccxt's structure, takes lists."""
        return bool(market.get("spot") and (market.get("info") or {}).get(self.offered_by))

    def orders(self, answer: Any) -> list[Mapping[str, Any]]:
        """Return the orders that an answer of the exchange tells of; none where it is no list's."""
        told = answer.get(self.reports) if isinstance(answer, Mapping) else None
        return list(told or ())

    def request(self, rest: Any, legs: Iterable[Arguments]) -> dict[str, Any]:
        """Return the request that places a list: two orders of one market, side and amount, a limit and a stop."""
        return self.write([rest.create_order_request(*leg) for leg in legs])


# developers.binance.com, "Spot API": "New order list - OCO": a sale has its limit above and its stop below, a buy the
# other way; the limit is a LIMIT_MAKER. What stands here under ccxt's name of it stands there with a prefix.
_BINANCE_LEG = {
    "newClientOrderId": "ClientOrderId",
    "price": "Price",
    "stopPrice": "StopPrice",
    "timeInForce": "TimeInForce",
    "trailingDelta": "TrailingDelta",
}


def _binance_oco(legs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    request: dict[str, Any] = {}
    for leg in legs:
        limit = leg["type"] == "LIMIT"
        prefix = "above" if limit is (leg["side"] == "SELL") else "below"
        own = {"Type": "LIMIT_MAKER" if limit else leg["type"]}
        own |= {name: leg[key] for key, name in _BINANCE_LEG.items() if key in leg}
        if limit:
            own.pop("TimeInForce", None)
        request |= {key: value for key, value in leg.items() if key not in _BINANCE_LEG and key != "type"}
        request |= {prefix + name: value for name, value in own.items()}
    return request


#: By the name that an exchange's facts give.
FORMS: Mapping[str, ListForm] = {
    "binance": ListForm(
        place="private_post_orderlist_oco",
        cancel="private_delete_orderlist",
        id_param="listClientOrderId",
        offered_by="ocoAllowed",
        write=_binance_oco,
        reports="orderReports",
    )
}

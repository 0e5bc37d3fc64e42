"""What ccxt does not tell of an exchange, as data: one entry an exchange, over one default.

Every figure names where the exchange says it. A user's own `facts=` on the store wins over the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one exchange.

    Attributes
    ----------
    rest_windows : tuple of (int, int)
        Request-weight limits as (weight, window in ms); empty: ccxt's own `rateLimit` is all that is known.
    weight_per_cost : float
        Exchange weight of one unit of ccxt's `cost`.
    used_weight_header : str
        Response header that tells the weight used in the first window; '' where there is none.
    order_windows : tuple of (int, int)
        Limits on new orders as (orders, window in ms).
    page_limit : int
        Most OHLCV rows in one answer; 0: learned from the first page.
    streams_per_request : int
        Most subscriptions in one subscribe message.
    streams_per_socket : int
        Most subscriptions on one connection.
    client_id_param : str
        Name of the ccxt parameter that carries the client order id; '' where the exchange has none.
    client_id_length : int
        Longest client order id, in characters.
    startup_options : mapping
        ccxt `options` that spare start-up calls a strategy does not need.
    """

    rest_windows: tuple[tuple[int, int], ...] = ()
    weight_per_cost: float = 1.0
    used_weight_header: str = ""
    order_windows: tuple[tuple[int, int], ...] = ()
    page_limit: int = 0
    streams_per_request: int = 20
    streams_per_socket: int = 100
    client_id_param: str = "clientOrderId"
    client_id_length: int = 32
    startup_options: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = Facts()

# binance: developers.binance.com, "Spot API": Limits (6,000 weight a minute, 100 orders in 10 s, 200,000 a day),
# "Klines" (limit 1,000), "WebSocket Streams" (1,024 streams a connection, 5 messages a second), "New order"
# (newClientOrderId up to 36 characters of [.A-Z:/a-z0-9_-]). ccxt scales spot costs by a fifth (klines: weight 2 is
# cost 0.4), hence `weight_per_cost`.
TABLE: Mapping[str, Facts] = {
    "binance": Facts(
        rest_windows=((6_000, 60_000),),
        weight_per_cost=5.0,
        used_weight_header="x-mbx-used-weight-1m",
        order_windows=((100, 10_000), (200_000, 86_400_000)),
        page_limit=1_000,
        streams_per_request=200,
        streams_per_socket=1_024,
        client_id_length=36,
        startup_options={"fetchMargins": False, "fetchCurrencies": False},
    ),
}


def facts_of(exchange_id: str, override: Facts | None = None) -> Facts:
    """Return the facts of an exchange: the user's own, else the table's, else the default."""
    return override or TABLE.get(exchange_id, DEFAULT)

"""What ccxt does not tell of an exchange: the facts that this package asks for, and what it takes for granted.

The exchanges' own stand in `ccxtbt.exchange.exchanges`; a user's ``facts=`` on the store wins over them.
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
    costs : mapping of str to float
        ccxt's cost of endpoints, as ``'public/trades'`` or, where one endpoint answers all kinds of questions,
        ``'public/info?type=candleSnapshot'``, where ccxt's own table is out of date.
    used_weight_header : str
        Response header, in small letters, that tells the weight used in the first window; '' where there is none.
    order_windows : tuple of (int, int)
        Limits on new orders of a key as (orders, window in ms).
    order_count_headers : tuple of (str, int)
        Response headers, in small letters, that tell the orders counted in a window of so many ms.
    remaining_header, reset_header : str
        Response headers, in small letters, that tell how many requests are left, and when there will be more, in ms.
    reset_counts_down : bool
        The reset is told as the ms until then, not as a time.
    limits_path : str
        End of the address whose answer tells the limits, in Binance's form; '' where there is none.
    safety : float
        Share of each limit on requests that is left unused: for what others use on the same address.
    socket_messages : tuple of (int, int) or ()
        Messages that may be sent on one WebSocket connection as (messages, window in ms); (): no limit is known.
    page_limit : int
        Most OHLCV rows in one answer; 0: what ccxt says, and what pages show.
    history_requests : int
        Most requests for history under way at once, for all markets together. Each has a connection of its own;
        ccxt's session opens 100 at most, and the rest is for live data and orders.
    trades_from_param : str
        Name of the parameter of ccxt's ``fetch_trades`` that says from which id on; '' where only a time can be given.
    streams_per_request : int
        Most subscriptions in one subscribe message.
    streams_per_socket : int
        Most subscriptions on one connection.
    connects_per_s : float
        Most new connections a second, for all shards together.
    socket_age_s : float
        When a connection is replaced, before the exchange ends it.
    ping_s : float
        Longest time between two pings; a connection that says nothing for two and a half of them is dead.
    stream_ends : tuple of str
        What stands in a frame that ends the account's stream while the connection goes on.
    stream_timeframes : mapping
        ccxt's timeframe to the word that the stream has for the same bars, where ccxt's own table means other ones.
    client_id_param : str
        Name of the ccxt parameter that carries the client order id; '' where the exchange has none.
    client_id_lookup : tuple of str
        Types of markets, as ``'spot'`` and ``'swap'``, whose orders ccxt's ``fetch_order`` finds by the client id
        alone. Elsewhere it is looked for among the open and the latest orders, which prove that an order is there,
        never that it is not.
    client_id_form : str
        What client order ids are made of: ``'text'`` (small letters and digits, which every exchange with texts takes),
        ``'uuid'``, ``'hex'`` (128 bits) or ``'number'`` (below 2 ** 45).
    client_id_prefix : str
        What they must begin with.
    client_id_length : int
        Longest client order id, in characters, with its prefix.
    expiry : tuple of (str, str) or ()
        ccxt's parameter that ends an order at a time, beside ``timeInForce='GTD'``, and its unit: ``'ms'`` or ``'iso'``
        (a time), ``'seconds'`` (from now); (): nobody knows how.
    expiry_least_s : float
        An order must be good for longer than this.
    trailing_params : tuple of str
        Which of ccxt's ``trailingAmount`` (in quote) and ``trailingPercent`` it takes.
    fee_coins : tuple of str
        Coins of the exchange's own that fees can be taken in, whatever is traded.
    startup_options : mapping
        ccxt `options` that spare start-up calls a strategy does not need.
    """

    rest_windows: tuple[tuple[int, int], ...] = ()
    weight_per_cost: float = 1.0
    costs: Mapping[str, float] = field(default_factory=dict)
    used_weight_header: str = ""
    order_windows: tuple[tuple[int, int], ...] = ()
    order_count_headers: tuple[tuple[str, int], ...] = ()
    remaining_header: str = ""
    reset_header: str = ""
    reset_counts_down: bool = False
    limits_path: str = ""
    safety: float = 0.005
    socket_messages: tuple[int, int] | tuple[()] = (4, 1_000)
    page_limit: int = 0
    history_requests: int = 25
    trades_from_param: str = ""
    streams_per_request: int = 20
    streams_per_socket: int = 100
    connects_per_s: float = 2.0
    socket_age_s: float = 82_800.0
    ping_s: float = 10.0
    stream_ends: tuple[str, ...] = ()
    stream_timeframes: Mapping[str, str] = field(default_factory=dict)
    client_id_param: str = "clientOrderId"
    client_id_lookup: tuple[str, ...] = ()
    client_id_form: str = "text"
    client_id_prefix: str = ""
    client_id_length: int = 32
    expiry: tuple[str, str] | tuple[()] = ()
    expiry_least_s: float = 0.0
    trailing_params: tuple[str, ...] = ()
    fee_coins: tuple[str, ...] = ()
    startup_options: Mapping[str, Any] = field(default_factory=dict)

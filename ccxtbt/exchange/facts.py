"""What ccxt does not tell of an exchange: the facts that this package asks for, and what it takes for granted.

The exchanges' own stand in `ccxtbt.exchange.exchanges`; a user's ``facts=`` on the store wins over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ccxtbt.errors import NotOfferedError

# What a feed may have beside prices and volume: the number of trades, the volume in quote currency, and that part of
# the volume (in base currency) in which the buyer was the taker.
EXTRA_LINES = ("trades", "quote_volume", "taker_buy_volume")


class Extra(NamedTuple):
    """Extra values of bars that are wanted, and where they lie.

    Attributes
    ----------
    names : tuple of str
        Of `EXTRA_LINES`.
    fields : tuple of int or str
        Places of time, open, high, low, close and volume in rows that have the extra values.
    places : tuple of int or str
        Those of the extra values, in the order of `names`.
    streamed : bool
        The frames that close a bar carry all of `EXTRA_LINES`; else REST is asked for each bar.
    """

    names: tuple[str, ...]
    fields: tuple[int | str, ...]
    places: tuple[int | str, ...]
    streamed: bool


@dataclass(frozen=True, slots=True)
class Extras:
    """One way in which an exchange writes bars, and the extra values in them.

    Attributes
    ----------
    kinds : tuple of str
        Markets whose bars are written so: 'spot', 'linear', 'inverse'.
    fields : tuple of int or str
        Index (rows are lists) or key (dicts) of time, open, high, low, close and volume in a row of REST. Rows in
        which these are found elsewhere are written in another way, and no extra value is read from them.
    places : mapping of str to int or str
        One of `EXTRA_LINES` to its index or key.
    streamed : bool
        As in `Extra`.
    """

    kinds: tuple[str, ...]
    fields: tuple[int | str, ...]
    places: Mapping[str, int | str]
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Trail:
    """How far an exchange trails a stop by itself, in percent; what is nearer, farther or finer is watched here.

    Attributes
    ----------
    least, most, step : str
        Of the distance.
    offered_by : str
        Flag of the exchange's own description of a market that says whether it trails; '' where ccxt's `features` say.
    params : mapping
        What ccxt wants to be told beside the distance.
    """

    least: str
    most: str
    step: str
    offered_by: str = ""
    params: Mapping[str, str] = field(default_factory=dict)


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
    trade_id : str or None
        Name, in a trade as the exchange writes it, of what tells it from others in its frames and in REST alike; '':
        ccxt's ``id`` does. None: nothing does, and where ccxt has an id it is made up.
    trades_latest : tuple of str
        Types of markets, as ``'spot'``, of whose trades REST gives the latest alone: it is asked without a time.
    trade_ids : tuple of str
        Names, in a trade of REST that stands for several, of the numbers of the first and the last of them.
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
    wallet_rows : tuple of (str, str, str) or ()
        Where the raw balance of an account of contracts tells its wallets without open profit: the list, and in it the
        currency and the amount; (): nobody knows.
    forced : tuple of (str, str)
        How the client ids of orders begin that the exchange itself makes in contracts, and what they are.
    trails : mapping of str to Trail
        Type of market, in ccxt's word, to how its orders trail.
    order_lists : str
        Form in which it takes two orders that end each other, by its name in `exchange.orderlists`; '' where it has no
        such lists, or nobody has written down how.
    fee_coins : tuple of str
        Coins of the exchange's own that fees can be taken in, whatever is traded.
    countdowns : mapping of str to str
        Kind of market (``'spot'``, ``'linear'``, ``'inverse'``, ``''``: any) to ccxt's method that cancels all open
        orders after a time: the unified ``'cancelAllOrdersAfter'`` for an account, or one of ccxt's raw methods for a
        market, which takes ``symbol`` and ``countdownTime`` in ms.
    startup_options : mapping
        ccxt `options` that spare start-up calls a strategy does not need, or choose what ccxt asks for.
    extras : tuple of Extras
        What bars tell beside prices and volume.
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
    trade_id: str | None = ""
    trades_latest: tuple[str, ...] = ()
    trade_ids: tuple[str, str] | tuple[()] = ()
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
    wallet_rows: tuple[str, str, str] | tuple[()] = ()
    forced: tuple[tuple[str, str], ...] = ()
    trails: Mapping[str, Trail] = field(default_factory=dict)
    order_lists: str = ""
    fee_coins: tuple[str, ...] = ()
    countdowns: Mapping[str, str] = field(default_factory=dict)
    startup_options: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[Extras, ...] = ()

    def find_extra(self, names: tuple[str, ...], exchange_id: str, market: Mapping[str, Any]) -> Extra | None:
        """Return where the extra values of a market's bars lie; None if none are wanted.

        Parameters
        ----------
        names : tuple of str
            Those wanted, of `EXTRA_LINES`.
        exchange_id : str
            Whose facts these are.
        market : mapping
            ccxt's market.

        Raises
        ------
        NotOfferedError
            The exchange does not give all of them with the bars of such a market.
        """
        if not names:
            return None
        kind = "spot" if not market.get("contract") else "inverse" if market.get("inverse") else "linear"
        for known in self.extras:
            if kind in known.kinds:
                break
        else:
            known = Extras((), (), {})
        missing = [name for name in names if name not in known.places]
        if missing:
            given = ", ".join(known.places) or "prices and volume alone"
            raise NotOfferedError(
                f"{exchange_id} gives no {', '.join(missing)} with the bars of {market['symbol']}, but {given}: leave "
                f"{'that line' if len(missing) == 1 else 'those lines'} out."
            )
        return Extra(names, known.fields, tuple(known.places[name] for name in names), known.streamed)

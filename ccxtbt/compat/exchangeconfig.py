"""ExchangeConfig: what an exchange offers, in backtrader's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import backtrader as bt

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.offers import Offer, offer_of, unified_status
from ccxtbt.market.timeframes import from_backtrader
from ccxtbt.trading.orders import ORDER_TYPES, TRAILING
from ccxtbt.trading.reports import order_fact
from ccxtbt.trading.rules import TICK_SIZE, Rules, rules_of

# Of a stop that is watched here, what is sent once the price has come.
_SENT_WHEN_DUE = {
    bt.Order.Stop: "market",
    bt.Order.StopLimit: "limit",
    bt.Order.StopTrail: "market",
    bt.Order.StopTrailLimit: "limit",
}


class ExchangeConfig:
    """What an exchange offers: ccxt's own word, completed by `ccxtbt.exchange.exchanges`; nothing is asked of it.

    A live run reads the same facts; a user's ``broker_mapping`` on the broker and ``facts=`` on the store go before
    them there, and the latter here too where a store is given.

    Each method takes an exchange as ccxt names it, one of ccxt's instances, or a `CCXTStore`. Where a type of market
    matters, ``kind`` is one of ccxt's (``'spot'``, ``'swap'``, ``'future'``, ``'option'``); None: the first that the
    exchange has. What it does not offer is a `NotOfferedError` with the reason; an exchange that ccxt does not know, a
    `ConfigError`.
    """

    @classmethod
    def get_order_type(cls, exchange: Any, bt_type: int, kind: str | None = None) -> str:
        """Return the name under which an execution type is sent, as the values of ``broker_mapping['order_types']``.

        A stop that the exchange cannot keep is watched here and sent as what it becomes: see `supports_order_type`.

        Raises
        ------
        NotOfferedError
            It is never sent: Historical.
        """
        if cls.supports_order_type(exchange, bt_type, kind):
            return "trailing stop" if bt_type in TRAILING else ORDER_TYPES[bt_type]
        if bt_type not in _SENT_WHEN_DUE:
            names = ", ".join(bt.Order.ExecTypes[known] for known in (*ORDER_TYPES, *sorted(TRAILING)))
            raise NotOfferedError(f"An order of type {bt_type!r} is not sent to any exchange: use one of {names}.")
        return _SENT_WHEN_DUE[bt_type]

    @classmethod
    def supports_order_type(cls, exchange: Any, bt_type: int, kind: str | None = None) -> bool:
        """Whether the exchange itself keeps an order of this execution type; a stop that it cannot is watched here."""
        offer = cls._offer(exchange)
        kind = offer.kind(kind)
        if not offer.has("createOrder"):
            raise NotOfferedError(f"{offer.exchange_id} takes no orders through ccxt: it is for market data alone.")
        if bt_type == bt.Order.StopTrail:
            return bool(cls._rules(offer, kind).trailing and offer.facts.trailing_params)
        if bt_type in (bt.Order.Stop, bt.Order.StopLimit):
            return bool(cls._rules(offer, kind).trigger_param)
        return bt_type in ORDER_TYPES

    @classmethod
    def get_order_status(cls, exchange: Any, status: str) -> str:
        """Return the unified status, such as ``'open'`` or ``'closed'``, of one in the exchange's own words.

        Raises
        ------
        ConfigError
            It is no status of the exchange.
        """
        exchange_id = cls._offer(exchange).exchange_id
        unified = order_fact({"status": unified_status(exchange_id, status)}).status
        if unified is None:
            raise ConfigError(f"status={status!r} is no status of an order that ccxt knows of {exchange_id}.")
        return unified

    @classmethod
    def get_params(cls, exchange: Any, kind: str | None = None) -> dict[str, Any]:
        """Return the names of ccxt's parameters that go with an order there; what is not offered is not in it.

        ``client_id``: carries our id of the order; ``client_id_lookup``: whether the exchange is asked for an order by
        it. ``trigger``, ``take_profit``: a stop's and a take-profit's trigger price. ``trailing``: what a trailing stop
        trails by. ``expiry``: ends an order at a time. ``cost``: a market buy by an amount of quote.
        """
        offer = cls._offer(exchange)
        kind = offer.kind(kind)
        facts, rules = offer.facts, cls._rules(offer, kind)
        params = {
            "client_id": facts.client_id_param,
            "client_id_lookup": kind in facts.client_id_lookup,
            "trigger": rules.trigger_param,
            "take_profit": rules.take_profit_param,
            "trailing": facts.trailing_params if rules.trailing else (),
            "expiry": facts.expiry[0] if rules.good_till_date and facts.expiry else "",
            "cost": "cost" if rules.cost_orders else "",
        }
        return {name: value for name, value in params.items() if value}

    @classmethod
    def get_timeframe(cls, exchange: Any, bt_tf: int | Sequence[int], compression: int = 1) -> str:
        """Return the exchange's name of a backtrader timeframe, which may be given as a pair with its compression.

        Raises
        ------
        NotOfferedError
            It has no such bars, and which it has.
        """
        if not isinstance(bt_tf, int):
            bt_tf, compression = bt_tf
        return from_backtrader(bt_tf, compression, cls.get_supported_timeframes(exchange))

    @classmethod
    def get_supported_timeframes(cls, exchange: Any) -> list[str]:
        """Return the bars that the exchange lists.

        Raises
        ------
        NotOfferedError
            It has none.
        """
        offer = cls._offer(exchange)
        if not offer.timeframes:
            raise NotOfferedError(f"{offer.exchange_id} has no bars that ccxt could fetch: build them from its trades.")
        return list(offer.timeframes)

    @classmethod
    def get_fees(cls, exchange: Any, kind: str | None = None) -> dict[str, float]:
        """Return the usual fees as shares of the value: ``{'maker': 0.001, 'taker': 0.001}``.

        Raises
        ------
        NotOfferedError
            ccxt knows none before the markets are loaded.
        """
        offer = cls._offer(exchange)
        return offer.fees(offer.kind(kind))

    @classmethod
    def get_rate_limit(cls, exchange: Any) -> float:
        """Return how many requests of ccxt's cost 1 may go out in a minute, all together."""
        offer = cls._offer(exchange)
        if not offer.facts.rest_windows:
            return 60_000 / offer.rate_limit_ms
        rates = (weight / window_ms for weight, window_ms in offer.facts.rest_windows)
        return 60_000 * min(rates) / offer.facts.weight_per_cost

    @classmethod
    def get_limits(cls, exchange: Any, kind: str | None = None) -> dict[str, Any]:
        """Return limits: bars of an answer (None: nobody tells), and of streams on a connection and in a request."""
        offer = cls._offer(exchange)
        kind = offer.kind(kind)
        facts = offer.facts
        try:
            bars: int | None = offer.page_limit(kind)
        except NotOfferedError:
            bars = None
        return {
            "requests_per_minute": cls.get_rate_limit(exchange),
            "bars_per_request": bars,
            "streams_per_connection": facts.streams_per_socket,
            "streams_per_request": facts.streams_per_request,
        }

    @staticmethod
    def _offer(exchange: Any) -> Offer:
        if isinstance(exchange, CCXTStore):
            return offer_of(exchange.connection.account.exchange_id, exchange.connection.facts)
        return offer_of(exchange if isinstance(exchange, str) else str(getattr(exchange, "id", exchange)))

    @staticmethod
    def _rules(offer: Offer, kind: str) -> Rules:
        features: Mapping[str, Any] | None = offer.features(kind, "createOrder")
        return rules_of({"symbol": kind}, TICK_SIZE, features)

"""CCXTBroker: a backtrader broker: the exchange's in a live run, backtrader's own in a backtest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.bracketorders import BracketOrder, BracketOrderManager
from ccxtbt.ccxtfeed import STORE_ARGUMENTS
from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.ccxtstore import CCXTStore, log_in_detail
from ccxtbt.compat import oldoptions
from ccxtbt.compat.oldviews import OldPositions, OldQueue
from ccxtbt.ending import ON_STOP, STOP_TIMEOUT_S, Ending
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.livedesk import BALANCE_TTL_S, POLL_ALONE_S, POLL_S, RECONCILE_S, LiveDesk
from ccxtbt.trading.account import Wallet
from ccxtbt.trading.audit import Apart
from ccxtbt.trading.contracts import Stance
from ccxtbt.trading.openorders import OpenOrders
from ccxtbt.trading.reconcile import Foreign
from ccxtbt.trading.reports import CANCELED, CLOSED, EXPIRED, OPEN, REJECTED
from ccxtbt.trading.sizes import CommInfo

__all__ = ["CCXTBroker", "CCXTOrder", "CCXTStore"]

logger = logging.getLogger(__name__)

# What backtrader's own orders take by name; everything else that `buy` and `sell` are given goes to the exchange.
SIZES_IN_ORDER = ("price", "plimit", "exectype", "valid", "tradeid", "oco", "trailamount", "trailpercent")
# An endpoint's address -> its part in the name of ccxt's method.
_OF_METHODS = str.maketrans("/", "_", "{}")

# backtrader's statuses -> ccxt's, for a user's own reading of an exchange's words.
_STATUS_OF = {
    **dict.fromkeys(("Created", "Submitted", "Accepted", "Partial"), OPEN),
    "Completed": CLOSED,
    "Canceled": CANCELED,
    "Expired": EXPIRED,
    **dict.fromkeys(("Margin", "Rejected"), REJECTED),
}


def _statuses_of(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Return what a user says that an exchange's statuses mean, in ccxt's words."""
    read = {}
    for text, given in mapping.items():
        meant = {
            _STATUS_OF.get(bt.Order.Status[status] if isinstance(status, int) else str(status).capitalize())
            for status in (given if isinstance(given, list | tuple | set) else [given])
        }
        if len(meant) != 1 or None in meant:
            raise ConfigError(
                f"order_statuses[{text!r}] = {given!r} is not one status: give bt.Order.Accepted, Completed, Canceled, "
                "Expired or Rejected, or several that say the same of whether and how the order has ended."
            )
        read[str(text).lower()] = str(meant.pop())
    return read


class _MetaBroker(type(bt.BrokerBase)):  # type: ignore[misc]  # backtrader's metaclass
    """Tells positional arguments by their types: a store, a mapping, switches and numbers, as old scripts give them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        switches = iter(("debug", "use_threaded_order_manager", "use_websocket_orders"))
        numbers = iter(("max_retries", "retry_delay"))
        for value in args:
            if isinstance(value, bool):
                name = next(switches, "debug")
            elif isinstance(value, int | float):
                name = next(numbers, "retry_delay")
            else:
                name = "store" if isinstance(value, CCXTStore) else "broker_mapping"
            if value is not None and kwargs.setdefault(name, value) is not value:
                raise ConfigError(f"CCXTBroker was given {name} twice: give it once, by name.")
        # Beside a store it is an old option of the broker's own.
        stay = set() if "exchange" in kwargs else {"max_retries"}
        made_of = {name: kwargs.pop(name) for name in STORE_ARGUMENTS if name in kwargs and name not in stay}
        kwargs = oldoptions.put("CCXTBroker", oldoptions.BROKER, kwargs, cls.params)
        if kwargs.get("store") is None:
            kwargs["store"] = CCXTStore(**made_of) if "exchange" in made_of else CCXTStore._singleton
        if kwargs["store"] is None:
            raise ConfigError("A CCXTBroker needs an account: give it store=CCXTStore(...) or exchange='binance'.")
        return super().__call__(**kwargs)


class CCXTBroker(bt.BrokerBase, metaclass=_MetaBroker):
    """Orders, positions, cash and value of an account.

    In a run with live feeds orders go to the exchange. In a run whose feeds are all historical nothing is sent
    anywhere: backtrader's BackBroker fills the orders, with the market's fees. Nothing that a strategy calls here
    waits for the network.

    Parameters
    ----------
    store : CCXTStore
        The account; may be given as the first positional argument.
    broker_mapping : mapping or None
        ``{'order_types': {bt.Order.Market: 'market', ...}, 'mappings': {'closed_order': {'key': ..., 'value': ...},
        'canceled_order': {...}}, 'order_statuses': {'expired': [bt.Order.Canceled], ...}}`` over what is known of the
        exchange; any key may be missing, others are ignored.
    check_interval : float or None
        Longest pause, in seconds, between two looks at open orders; by default 10 beside the streams, 3 without.
    use_websocket : bool
        False: orders, fills and balances are only looked up, also where the exchange would push them.
    flatten_excess : bool
        True: where two orders that exclude each other were both filled before the cancel of the second arrived, the
        excess is traded back at market at once. It is told in `notify_store` either way.
    position : str
        ``'fills'``: a live run begins with the positions that the journal knows of, the first one without.
        ``'balance'``: with what the account holds of the base of each market; what the journal does not know of
        counts as bought at the last price. What closes it makes a Trade. A backtest always begins without. In
        contracts a live run always begins with the exchange's positions.
    leverage : float, mapping of str to float, or None
        Leverage to set for the contracts of a live run when it begins, for all or by symbol; None: as it is.
    margin_mode : str, mapping of str to str, or None
        ``'cross'`` or ``'isolated'``, in the same manner.
    hedged : bool
        True: begin on an account in hedge mode, which holds a long and a short position a contract, and is refused
        otherwise. You say which one each order is of (``positionSide=`` on Binance), the run's position is the sum of
        both, nothing is made reduce-only, and nothing is flattened. Trading so was not proved: see docs/swaps.md.
    balance_ttl : float
        Seconds after which a live run asks for the balance again that nothing has pushed meanwhile.
    foreign : str
        What to do about open orders of the account that are not ours, at the start of a live run and later:
        ``'ignore'``: tell `notify_store` of each once. ``'adopt'``: take those in the run's markets up as orders of the
        strategy. ``'halt'``: tell, and send nothing until ``store.resume()``.
    reconcile_interval : float
        Seconds between two looks for them; there is one after each reconnect too.
    on_stop : str
        What becomes of the open orders of a live run when it ends, also by Ctrl-C or an exception: ``'leave'`` them at
        the exchange; ``'cancel_entries'``, but not what protects or closes a position; ``'cancel_all'``;
        ``'flatten'``: cancel all, and close the positions of the run at market. It is done, and notified, before
        ``Strategy.stop()``, and holds for what is ordered there too. A process that is killed does none of it.
    stop_timeout : float
        Seconds that this may take; what is not done by then is told.
    cancel_all_after : float or None
        A dead man's switch: the exchange cancels all open orders of the account (of the run's markets, where it has one
        for each), protective stops too, when it has not heard from a live run for so many seconds. None: there is none.
    debug : bool
        Log at DEBUG level.
    use_websocket_orders, use_threaded_order_manager, ...
        Of old scripts; `ccxtbt.compat.oldoptions` has all of them, and a warning tells what each means here.

    Attributes
    ----------
    store : CCXTStore
        The account.
    order_types, mappings : dict
        What `broker_mapping` says, over what the class says.
    cash, value, currency
        As `getcash`, `getvalue` and the store tell them.
    use_order_params : bool
        True; of old scripts, and changes nothing: what `buy` and `sell` are given always goes to the exchange.

    Raises
    ------
    ConfigError
        No store, or one given twice; a `position`, a `foreign` or an `on_stop` that is none of these.
    """

    params = (
        ("store", None),
        ("broker_mapping", None),
        ("check_interval", None),
        ("debug", False),
        ("use_websocket", True),
        ("flatten_excess", False),
        ("position", "fills"),
        ("balance_ttl", BALANCE_TTL_S),
        ("foreign", "ignore"),
        ("reconcile_interval", RECONCILE_S),
        ("leverage", None),
        ("margin_mode", None),
        ("hedged", False),
        ("on_stop", "leave"),
        ("stop_timeout", STOP_TIMEOUT_S),
        ("cancel_all_after", None),
    )

    order_types: Mapping[int, str] = {}
    mappings: Mapping[str, Mapping[str, Any]] = {}
    use_order_params = True

    def __init__(self) -> None:
        super().__init__()
        if self.p.debug:
            log_in_detail()
        self.store: CCXTStore = self.p.store
        if self.p.position not in {"fills", "balance"}:
            raise ConfigError(f"position={self.p.position!r} is not known: say 'fills' or 'balance'.")
        self._foreign = Foreign.of(self.p.foreign)
        if self.p.on_stop not in ON_STOP:
            raise ConfigError(f"on_stop={self.p.on_stop!r} is not known: say one of {', '.join(map(repr, ON_STOP))}.")
        mapping = self.p.broker_mapping or {}
        self.order_types = {**self.order_types, **mapping.get("order_types", {})}
        self.mappings = {
            **self.mappings,
            **mapping.get("mappings", {}),
            "order_statuses": _statuses_of(mapping.get("order_statuses", {})),
        }
        # Until a run shows what its feeds are, money and CommInfos are set on backtrader's own broker.
        self._desk: Any = bt.brokers.BackBroker()
        self._no_commission = self._desk.comminfo[None]
        self.cerebro: Any = None
        self._begun = False
        self._brackets = BracketOrderManager(self)
        self._ending: Ending | None = None

    def start(self) -> None:
        """Begin a run: live if any feed is."""
        super().start()
        self._begun = True
        self.store.attach(self.cerebro)
        feeds = self.cerebro.datas
        if any(data.islive() for data in feeds):
            self.store.start()
            self.store.currency = self.store.currency or self._quote_of(feeds[0])
            streams = bool(self.p.use_websocket)
            self._desk = LiveDesk(
                self.store,
                self.cerebro,
                self.order_types,
                self.mappings,
                dict(self._own_comminfo()),
                self.p.check_interval or (POLL_S if streams else POLL_ALONE_S),
                streams=streams,
                flatten_excess=bool(self.p.flatten_excess),
                balance_ttl_s=float(self.p.balance_ttl),
                seeded=self.p.position == "balance",
                foreign=self._foreign,
                reconcile_s=float(self.p.reconcile_interval),
                leverage=self.p.leverage,
                margin_mode=self.p.margin_mode,
                hedged=bool(self.p.hedged),
                cancel_after_s=self.p.cancel_all_after,
            )
            # With it off, a fill would wait for the next bar.
            self.cerebro.p.quicknotify = True
        else:
            if isinstance(self._desk, LiveDesk):
                self._desk = bt.brokers.BackBroker()
            self._charge_market_fees(feeds)
            self._desk.cerebro = self.cerebro
            logger.info("All feeds are historical: orders are filled by backtrader's own broker and nothing is sent.")
        self._desk.start()
        if isinstance(self._desk, LiveDesk):
            self._ending = Ending(self._desk, self.p.on_stop, float(self.p.stop_timeout))

    def before_stop(self, failed: bool) -> None:
        """Do what `on_stop` says; the passes of cerebro are over, or `failed`, and `Strategy.stop()` comes next."""
        if self._ending is not None:
            self._ending.before_stop(failed)

    def stop(self) -> None:
        """End the run; money, value and positions can still be read."""
        ending, self._ending = self._ending, None
        try:
            if ending is not None:
                ending.after_stop()
        finally:
            self._desk.stop()

    def next(self) -> None:
        """Do what is due in a pass of cerebro."""
        self._desk.next()

    def get_notification(self) -> Any:
        """Return the next order that changed; None if there is none."""
        return self._desk.get_notification()

    def notify(self, order: Any) -> None:
        """Queue a notification of an order."""
        self._desk.notifs.append(order.clone())

    @property
    def notifs(self) -> OldQueue:
        """The orders that `get_notification` has yet to give, as a queue and as a deque."""
        return OldQueue(self._desk.notifs)

    @property
    def currency(self) -> str | None:
        """The currency of cash and value."""
        return self.store.currency

    @property
    def cash(self) -> float:
        """As `getcash`."""
        return self.getcash()

    @cash.setter
    def cash(self, cash: float) -> None:
        """As `setcash`."""
        self.setcash(cash)

    @property
    def value(self) -> float:
        """As `getvalue`."""
        return self.getvalue()

    @property
    def startingcash(self) -> float:
        """Cash when the run began; before a live one, what the account has."""
        if (wallet := self._ahead()) is not None:
            return wallet.free(self.currency or self._quote_ahead())
        return float(self._desk.startingcash)

    @property
    def startingvalue(self) -> float:
        """Value when the run began; before a live one, what the account has."""
        if (wallet := self._ahead()) is not None:
            return wallet.total(self.currency or self._quote_ahead())
        desk = self._desk
        return float(desk.startingvalue if isinstance(desk, LiveDesk) else desk.startingcash)

    @property
    def positions(self) -> OldPositions:
        """Positions by data; a symbol finds them too."""
        return OldPositions(self._desk.positions)

    @property
    def open_orders(self) -> OpenOrders:
        """Orders that are open: iterates orders, and finds them by id."""
        if isinstance(self._desk, LiveDesk):
            return self._desk.open_orders
        waiting = (*self._desk.submitted, *self._desk.pending)
        return OpenOrders(order for order in waiting if order is not None and order.alive())

    def getcash(self) -> float:
        """Return the money in the store's currency; before a live run the account is asked for it, once."""
        if (wallet := self._ahead()) is not None:
            return wallet.free(self.currency or self._quote_ahead())
        return float(self._desk.getcash())

    get_cash = getcash

    def get_stance(self, data: Any) -> Stance | None:
        """Return the exchange's last word on the contract of a data: position, leverage, margin mode; None on spot."""
        return self._desk.stance_of(data) if isinstance(self._desk, LiveDesk) else None

    @property
    def apart(self) -> list[Apart]:
        """What changed in a live account without an order of this run: deposits, payments, trades of others."""
        return list(self._desk.apart) if isinstance(self._desk, LiveDesk) else []

    def amount(self, currency: str) -> Decimal:
        """Return what a live account holds of a currency, by its balance at the start and all fills since, exactly.

        Raises
        ------
        ConfigError
            The run is not live.
        """
        if not isinstance(self._desk, LiveDesk):
            raise ConfigError(f"amount({currency!r}) is of a live account: in a backtest ask getcash().")
        held: Decimal = self._desk.amount(currency)
        return held

    def setcash(self, cash: float) -> None:
        """Set the money with which a backtest begins; a live account's cannot be set."""
        if isinstance(self._desk, LiveDesk):
            raise ConfigError(f"setcash({cash}) cannot change what a live account holds: set it before a backtest.")
        self._desk.setcash(cash)

    set_cash = setcash

    def getvalue(self, datas: Any = None) -> float:
        """Return money and positions at the last price; of `datas`, the value of their positions alone.

        Before a live run it is what the account has of the store's currency, which is asked for once.
        """
        if datas is None and (wallet := self._ahead()) is not None:
            return wallet.total(self.currency or self._quote_ahead())
        return float(self._desk.getvalue(datas))

    get_value = getvalue

    def getposition(self, data: Any, clone: bool = True) -> Any:
        """Return the position in a market."""
        if isinstance(self._desk, LiveDesk):
            return self._desk.getposition(data, clone)
        return self._desk.getposition(data)

    def orderstatus(self, order: Any) -> int:
        """Return an order's status."""
        return int(self._desk.orderstatus(order))

    def getcommissioninfo(self, data: Any) -> Any:
        """Return the CommInfo of a data."""
        return self._desk.getcommissioninfo(data)

    def setcommission(self, *args: Any, **kwargs: Any) -> None:
        """Set commissions over the market's own; arguments as backtrader's."""
        self._desk.setcommission(*args, **kwargs)

    def addcommissioninfo(self, comminfo: Any, name: str | None = None) -> None:
        """Set a CommInfo over the market's own."""
        self._desk.addcommissioninfo(comminfo, name)

    def get_balance(self, currency: str | None = None) -> Any:
        """Return (cash, value) as last known; of a currency, what can be spent of it."""
        if currency is not None:
            return self._wallet_of(currency)[0]
        return self.getcash(), self.getvalue()

    def get_wallet_balance(self, currency: Any = None, params: Any = None) -> Any:
        """Return the wallet as last known, without asking the exchange.

        Parameters
        ----------
        currency : str, list of str or None
            One currency: (cash, value), zeros where it was never held. A list: ``{currency: {'cash', 'value'}}``.
            None: the whole balance as ccxt gives it.
        params
            Accepted from old scripts; the balance is pushed by the exchange and not asked for here.
        """
        if isinstance(currency, str):
            return self._wallet_of(currency)
        if currency is not None:
            pairs = {name: self._wallet_of(name) for name in currency}
            return {name: {"cash": cash, "value": value} for name, (cash, value) in pairs.items()}
        return dict((self._ahead() or self.store.wallet).raw)

    def buy(self, owner: Any, data: Any, size: float, price: float | None = None, **kwargs: Any) -> Any:
        """Order to buy; arguments as backtrader's, and whatever else the exchange takes (also as ``params={}``)."""
        return self._order("buy", owner, data, size, price, kwargs)

    def sell(self, owner: Any, data: Any, size: float, price: float | None = None, **kwargs: Any) -> Any:
        """Order to sell; arguments as backtrader's, and whatever else the exchange takes (also as ``params={}``)."""
        return self._order("sell", owner, data, size, price, kwargs)

    def cancel(self, order: Any) -> Any:
        """Ask to cancel an order; its notification comes when it is done."""
        return self._desk.cancel(order)

    def get_orders_open(self, safe: bool = False) -> list[dict[str, Any]]:
        """Ask the exchange for the account's open orders, and wait for them; `open_orders` are those of the run.

        Parameters
        ----------
        safe
            Accepted from old scripts.
        """
        return self.store.fetch_open_orders()

    def private_end_point(
        self,
        type: str,  # noqa: A002  # the name that scripts give
        endpoint: str,
        params: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> Any:
        """Call one of the exchange's own private endpoints, once, and wait for its answer.

        Parameters
        ----------
        type : str
            ``'Get'``, ``'Post'``, ``'Put'`` or ``'Delete'``.
        endpoint : str
            Its address, such as ``'order/{id}/cancel'``: ccxt's method is ``private_post_order_id_cancel``.
        params : mapping or None
            The endpoint's parameters.
        prefix : str
            What stands before ``private`` in ccxt's name of the method, such as ``'v2'``.

        Raises
        ------
        NotOfferedError
            ccxt knows no such endpoint of this exchange.
        """
        path = endpoint.translate(_OF_METHODS).strip("_")
        name = "_".join(part.lower() for part in (prefix, "private", type, path) if part)
        if not hasattr(self.store.exchange, name):
            raise NotOfferedError(f"ccxt's {self.store.exchange_id} has no method {name}: see dir(store.exchange).")
        return self.store.private_end_point(type=type, endpoint=name, params=params)

    def create_bracket_order(
        self,
        data: Any,
        size: float,
        entry_price: float | None,
        stop_price: float,
        limit_price: float,
        entry_type: int | None = None,
        side: str = "buy",
    ) -> BracketOrder:
        """Order an entry with a stop and a target; see `BracketOrderManager.create_bracket`."""
        made = self._brackets.create_bracket(data, size, entry_price, stop_price, limit_price, side, entry_type)
        return self._brackets.brackets[made.ref]

    def get_bracket_manager(self) -> BracketOrderManager:
        """Return the manager of the brackets that `create_bracket_order` made."""
        return self._brackets

    def _order(self, side: str, owner: Any, data: Any, size: float, price: float | None, kwargs: dict[str, Any]) -> Any:
        quote_size = kwargs.pop("quote_size", None)
        if not isinstance(self._desk, LiveDesk):
            kwargs.pop("params", None)
            if quote_size is not None:
                size = self.getcommissioninfo(data).getsize(data.close[0], quote_size)
            return getattr(self._desk, side)(owner, data, size, price, **kwargs)
        if kwargs.get("exectype") == bt.Order.StopTrailLimit and (price is None or kwargs.get("plimit") is None):
            raise ConfigError(
                "A StopTrailLimit takes price= and plimit=, whose distance its limit keeps from its trigger: give both."
            )
        named = {name: kwargs.pop(name, None) for name in SIZES_IN_ORDER[1:]}
        named |= {
            "pricelimit": named.pop("plimit"),
            "tradeid": named["tradeid"] or 0,
            "parent": kwargs.pop("parent", None),
            "transmit": kwargs.pop("transmit", True),
        }
        kwargs.pop("histnotify", None)
        # backtrader tells nothing of a Historical order else, not even that it is refused.
        named["histnotify"] = True
        # Its span counts from now; backtrader would count from the stamp of a bar, which may be an hour old.
        valid = named.pop("valid")
        params = {**kwargs.pop("params", {}), **kwargs}
        named |= {"side": side, "owner": owner, "data": data, "size": size, "price": price}
        order = CCXTOrder(**named)
        order.addinfo(**params)
        self._desk.take(order, params, valid, quote_size)
        return order

    def _ahead(self) -> Wallet | None:
        """Return what the account has where a live run has yet to begin; None in a run, and before a backtest."""
        if self._begun or self.cerebro is None or not any(data.islive() for data in self.cerebro.datas):
            return None
        return self.store.known_wallet()

    def _quote_ahead(self) -> str:
        # The markets are not loaded yet, and a unified symbol says it.
        symbols = (getattr(LiveDesk.source(data).p, "dataname", None) for data in self.cerebro.datas)
        first = next((symbol for symbol in symbols if isinstance(symbol, str)), "")
        return first.partition("/")[2].partition(":")[0]

    def _wallet_of(self, currency: str) -> tuple[float, float]:
        if (wallet := self._ahead()) is not None:
            return wallet.free(currency), wallet.total(currency)
        if not isinstance(self._desk, LiveDesk):
            return self.getcash(), self.getvalue()
        return self.store.wallet.free(currency), self.store.wallet.total(currency)

    def _quote_of(self, data: Any) -> str:
        market = self.store.connection.markets[LiveDesk.source(data).p.dataname]
        return str(market.get("settle") or market["quote"])

    def _own_comminfo(self) -> dict[str | None, Any]:
        """Return the CommInfos that the user has set; backtrader's default, which charges nothing, is not one."""
        own = self._desk.comminfo
        return {name: info for name, info in own.items() if name is not None or info is not self._no_commission}

    def _charge_market_fees(self, feeds: Any) -> None:
        self.store.start()
        for data in feeds:
            symbol = getattr(LiveDesk.source(data).p, "dataname", None)
            market = self.store.connection.markets.get(symbol) if isinstance(symbol, str) else None
            if market is not None and data._name not in self._desk.comminfo:
                fee, size = float(market.get("taker") or 0.0), float(market.get("contractSize") or 1.0)
                self._desk.addcommissioninfo(CommInfo(commission=fee, mult=size), name=data._name)


CCXTStore.BrokerCls = CCXTBroker

"""CCXTFeed: a backtrader data over an exchange's bars: history, hand-over, live."""

from __future__ import annotations

import asyncio
import calendar
import datetime as dt
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, get_args

import backtrader as bt
import numpy as np

from ccxtbt.bulkfeed import STANDARD_LINES, BulkFeed, Stamp
from ccxtbt.ccxtstore import CCXTStore, log_in_detail, open_archive
from ccxtbt.compat import oldoptions
from ccxtbt.errors import ConfigError, NotOfferedError, TryLaterError
from ccxtbt.exchange.connection import as_ours
from ccxtbt.exchange.facts import EXTRA_LINES, Extra
from ccxtbt.forming import FormingBar, Glimpse
from ccxtbt.gathering import Slot
from ccxtbt.market import timeframes
from ccxtbt.market.flow import Flow, State
from ccxtbt.market.funding import FUNDING_LINES, Funding, check_funding
from ccxtbt.market.handover import Bar, Counts, Gaps, Origin
from ccxtbt.market.history import empty
from ccxtbt.market.pipeline import Pipeline, Source
from ccxtbt.market.sessions import Sessions
from ccxtbt.market.ticks import TickFlow, check_ticks
from ccxtbt.resampled import (
    BarClone,
    BarReplayer,
    BarResampler,
    LiveClone,
    ResampledFeed,
    ResampledFeedWithVolumes,
)

__all__ = ["CCXTFeed", "CCXTStore"]

logger = logging.getLogger(__name__)

# Arguments of a feed that make its store, when no store is given.
STORE_ARGUMENTS = (
    "exchange",
    "currency",
    "config",
    "retries",
    "max_retries",
    "sandbox",
    "endpoint",
    "clock",
    "facts",
)


def _told(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a feed in backtrader's words: other spellings become dataname, timeframe, historical."""
    symbol = arguments.pop("symbol", None)
    if symbol is not None:
        arguments.setdefault("dataname", symbol)
    live = arguments.pop("live", None)
    if live is not None:
        arguments.setdefault("historical", not live)
    text = arguments.get("timeframe")
    if isinstance(text, str):
        pair = timeframes.to_backtrader(text)
        arguments["timeframe"], arguments["compression"] = pair
    elif isinstance(text, tuple):
        arguments["timeframe"], arguments["compression"] = text
    return arguments


def _store_of(arguments: dict[str, Any]) -> CCXTStore:
    """Take from the arguments of a feed its store, or make it."""
    store = arguments.pop("store", None)
    made_of = {name: arguments.pop(name) for name in STORE_ARGUMENTS if name in arguments}
    if store is None and set(made_of) == {"exchange"}:
        # Only the exchange is named: the account is the one that the script has opened there.
        store = CCXTStore.last_of(made_of["exchange"])
    if store is None and made_of.get("exchange") is not None:
        store = CCXTStore(**made_of)
    store = store or CCXTStore._singleton
    if store is None:
        raise ConfigError("A CCXTFeed needs an exchange: give it store=CCXTStore(...) or exchange='binance'.")
    return store


class _MetaFeed(type(BulkFeed)):  # type: ignore[misc]  # backtrader's metaclass
    """Reads the spellings of a feed's arguments before backtrader's metaclass sees them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args:
            kwargs.setdefault("store" if isinstance(args[0], CCXTStore) else "dataname", args[0])
        kwargs = _told(oldoptions.put("CCXTFeed", oldoptions.FEED, kwargs, cls.params))
        store = _store_of(kwargs)
        if store.stamp is not None:
            kwargs.setdefault("stamp", store.stamp)
        feed = super().__call__(**kwargs)
        feed.store = feed._store = store
        return feed


class CCXTFeed(BulkFeed, metaclass=_MetaFeed):
    """Bars of one market of an exchange.

    History from ``fromdate`` is loaded first; then, unless ``historical``, live bars follow, each closed, once and in
    order. ``notify_data`` hears DELAYED before the history, LIVE when the backlog is delivered, CONNBROKEN at a
    break, DELAYED while what was missed is fetched, LIVE again; NOTSUBSCRIBED, after all that is known, where the
    exchange does not stream this market or has it no more, while other feeds go on; DISCONNECTED at the end of
    ``historical`` and at ``todate``.

    Parameters
    ----------
    dataname : str
        ccxt's unified symbol, such as ``'BTC/USDT'``; also spelled ``symbol``.
    timeframe, compression : int
        backtrader's pair; ``timeframe`` may also be text such as ``'5m'``. With ``bt.TimeFrame.Ticks`` each bar is of
        ``compression`` trades, see below.
    fromdate, todate : datetime or None
        Bars that open in this span, in UTC or in ``tz``.
    historical : bool
        History only; also spelled ``live=False``.
    stamp : str or None
        What the datetime of a bar says (see `BulkFeed`).
    partial : bool
        Deliver the forming bar too, as backtrader's replay does: `next()` is called with the same length of the data
        and other values until the bar is closed. `forming` tells which it is; the datetime of a forming bar is the
        time at which it was seen.
    align : float or None
        Live bars that close together are held back until all feeds with ``align`` have theirs, so that a strategy
        gets one `next()` for all of them, but no longer than so many seconds; a market that has fallen silent is not
        waited for. None: each bar comes at once.
    sessions : Session, tuple, dict or list of these, optional
        Trading hours: only bars that open within them are delivered, in history and live. A tuple is start, end, days
        and time zone, such as ``('09:30', '16:00', 'mon-fri', 'America/New_York')``; see `ccxtbt.market.sessions`.
    fetch_ohlcv_params : dict
        Extra parameters of ccxt's ``fetch_ohlcv``.
    archive : bool, path or None
        Keep the history on disk, and live bars when they have been over for a minute (those made of trades are not
        kept, for the archive holds the exchange's own); as the store's own argument says; None: as the store does.
    progress : callable or None
        Hears how far the download of the history is (`ccxtbt.market.history.Progress`), on the store's I/O thread.
    source : {'auto', 'ohlcv', 'trades', 'poll'}
        Where live bars come from: the exchange's stream of bars, bars built from its stream of trades, or REST, asked
        just after each close. ``'auto'`` takes the first of them that the exchange offers.
    gaps : {'none', 'flat', 'raise'}
        What to make of bars in which nobody traded: nothing; a flat bar at the last close, with volume 0 and origin
        synthetic; or `DataError`.
    check_interval : float or None
        Longest pause between two polls, in seconds; None: as long as the bars.
    store : CCXTStore
        The account; or ``exchange``, ``currency``, ``config``, ... to make one. ``exchange`` alone names the account
        that was last opened there, if there is one.
    backfill_start : bool
        False: no history is loaded before live bars.
    debug : bool
        Log at DEBUG level.
    ohlcv_limit, drop_newest, ...
        Of old scripts; `ccxtbt.compat.oldoptions` has all of them, and a warning tells what each means here.

    Raises
    ------
    ConfigError
        At the start of a run: an unknown symbol or timeframe, or dates in the wrong order.
    NotOfferedError
        At the start of a run: the exchange does not give a line that a subclass declares, or no trades for ticks.
    TryLaterError
        At the start of a run: the exchange does not answer.

    Notes
    -----
    A subclass whose ``lines`` are named ``trades`` (how many there were), ``quote_volume`` (in quote currency) or
    ``taker_buy_volume`` (that part of the volume in which the buyer took) has these filled from the exchange's bars,
    as `CCXTFeedWithVolumes` does with all three. They are read from the same answers and frames as prices; where the
    frames of an exchange lack them, each live bar is asked of REST when it is over, and comes some seconds later.
    Where ccxt alone can read an answer they are NaN, with a warning; in a flat bar of ``gaps='flat'`` they are 0.
    With ``source='trades'`` live bars have the sums of their trades, also where the exchange's own bars lack them.
    The archive keeps bars with such lines apart from those without. Backtrader's own resampling drops them,
    `resampled` sums them. Other lines of a subclass are its own to fill.

    Ticks are made of the exchange's trades, each once, in its order: those from ``fromdate`` on, as far back as it
    gives them, then live ones; without ``fromdate`` of those to come (``historical``: of the latest that it gives at
    once). A bar's datetime is the time of its last trade, whatever ``stamp`` says; many may share one. What an
    exchange puts together to one trade (as Binance's aggregate trades) is one here. ``gaps``, ``partial`` and
    ``align`` are not for ticks, and the archive does not keep them.
    """

    params: Any = (
        ("historical", False),
        ("backfill_start", True),
        ("fetch_ohlcv_params", {}),
        ("ohlcv_limit", None),
        ("drop_newest", True),
        ("debug", False),
        ("check_interval", None),
        ("archive", None),
        ("progress", None),
        ("source", "auto"),
        ("gaps", "none"),
        ("partial", False),
        ("align", None),
        ("sessions", None),
    )

    store: CCXTStore
    # Lines that are filled with what is known of funding.
    _funded: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        if self.p.debug:
            log_in_detail()
        self._held: deque[list[Bar] | State | Exception] = deque()
        self._sink: _Sink | None = None
        self._hours: Sessions | None = None
        self._forming: FormingBar | None = None
        # Hears the market's last price between closes, on cerebro's thread: (feed, price, ms of the exchange's clock).
        self.tell_price: Callable[[CCXTFeed, float, int], None] | None = None
        # The lines of a subclass, and the places among them of those that the exchange fills.
        self._declared: tuple[str, ...] = self.lines.getlinealiases()[STANDARD_LINES:]
        self._volumes = tuple(name for name in self._declared if name in EXTRA_LINES)
        self._filled = [self._declared.index(name) for name in (*self._volumes, *self._funded)]
        self._in_order = self._filled == list(range(len(self._declared)))
        # Open of the last closed bar that came, in a session or not.
        self.given_ms: int | None = None
        self.corrections = 0
        self.origins: dict[str, int] = {}
        self.counts = Counts()

    def islive(self) -> bool:
        """Whether live bars follow the history."""
        return not self.p.historical

    @property
    def forming(self) -> bool:
        """Whether the last bar is still forming; only with ``partial=True``."""
        return self._forming is not None and self._forming.shown

    def qbuffer(self, savemem: int = 0, replaying: bool = False) -> None:
        """Bound the memory of the lines; cerebro calls it. A forming bar needs the room of a replayed one."""
        super().qbuffer(savemem, replaying=replaying or self.p.partial or bool(self._filters))

    def clone(self, **kwargs: Any) -> Any:
        """Return a data over this one, for cerebro to resample or replay."""
        self._refuse_partial()
        return (LiveClone if self.islive() else BarClone)(dataname=self, **kwargs)

    def resampled(self, timeframe: int | str, compression: int = 1, **kwargs: Any) -> ResampledFeed:
        """Return coarser bars of this feed, to be added to cerebro after it: as `cerebro.resampledata`, but faster.

        Parameters
        ----------
        timeframe, compression : int
            backtrader's pair; ``timeframe`` may also be text such as ``'1h'``.
        **kwargs
            As `ResampledFeed`'s.

        Returns
        -------
        ResampledFeed
        """
        if isinstance(timeframe, str):
            timeframe, compression = timeframes.to_backtrader(timeframe)
        kind = ResampledFeedWithVolumes if self._volumes else ResampledFeed
        return kind(base=self, timeframe=timeframe, compression=compression, **kwargs)

    def since_ms(self) -> int | None:
        """Return from when on no bar is missing, in ms UTC: the first date asked for, or the first bar."""
        start_ms, _ = self._span_ms()
        return super().since_ms() if start_ms is None else start_ms

    def resample(self, **kwargs: Any) -> None:
        """Let this feed's bars be resampled; cerebro calls it."""
        self._refuse_partial()
        self.addfilter(BarResampler, **kwargs)
        # On the feed itself: the others keep the method in C, which cerebro calls on every data in every pass.
        self.__dict__["_check"] = self._check_nothing

    def replay(self, **kwargs: Any) -> None:
        """Let this feed's bars be replayed; cerebro calls it."""
        self._refuse_partial()
        self.addfilter(BarReplayer, **kwargs)
        if self.islive():
            self.__dict__["_check"] = self._check_nothing

    def _put_back_whole(self) -> bool:
        # A bar that ends two coarser ones is put back for the first of them.
        return self.islive() or any(isinstance(data, BarClone) and data.data is self for data in self._env.datas)

    def _refuse_partial(self) -> None:
        if self.p.partial:
            raise ConfigError(
                f"{self.p.dataname} delivers its forming bar, which cannot be filtered, resampled or replayed: take "
                "partial=True out, or use a second feed without it, or data.resampled()."
            )

    def _check_nothing(self, forcedata: Any = None) -> None:
        """Close no bar by a clock or by another market's bar: its own last part may still be on the way."""

    def setenvironment(self, env: Any) -> None:
        """Join a cerebro, and bring the store along."""
        super().setenvironment(env)
        self.store.attach(env)

    def start(self) -> None:
        """Get the history of all feeds of this cerebro side by side, and wait for this one's."""
        super().start()
        self._held.clear()
        self._watch_forming()
        self.store.start()
        ts_ms, ohlcv, origin = self.store.patiently(self._load_history)
        self.origins = {each.name.lower(): n for each in Origin if (n := int((origin == each).sum()))}
        self.given_ms = int(ts_ms[-1]) if len(ts_ms) else None
        self.set_columns(*self._in_session(ts_ms, self._spread(ohlcv)))
        if self.p.fromdate is not None:
            self.put_notification(self.DELAYED)
        logger.info("%s: %d bars of history.", self.p.dataname, len(ts_ms))

    def _load_history(self) -> Any:
        """Return the bars of the history, and where they come from; waits for them."""
        feeds = [data for data in self._env.datas if isinstance(data, CCXTFeed)] or [self]
        try:
            for feed in feeds:
                feed.launch()
            return self.store.outcome(self.launch(), (*empty(), empty()[0]))
        except BaseException as error:
            # This run ends before it has begun, or tries once more: either loads anew.
            for feed in feeds:
                feed._sink = None
            if isinstance(error, Exception):
                raise as_ours(error, f"Loading the bars of {self.p.dataname}") from error
            raise

    def _watch_forming(self) -> None:
        self._forming = None
        if self.p.partial and self.islive():
            if self._filters:
                self._refuse_partial()
            self._forming = FormingBar(self)
            # On the feed itself: the others keep the methods in C.
            self.__dict__.update(next=self._forming.next, rewind=self._forming.rewind)

    def _in_session(self, ts_ms: Any, ohlcv: Any) -> Any:
        """Leave out the bars that open outside of trading hours."""
        if self._hours is None:
            return ts_ms, ohlcv
        inside = self._hours.mask(ts_ms)
        logger.info("%s: %d of %d bars lie in the sessions.", self.p.dataname, inside.sum(), len(ts_ms))
        return ts_ms[inside], ohlcv[:, inside]

    def _spread(self, rows: Any) -> Any:
        """Give the lines that the exchange does not fill a row too."""
        if self._in_order and len(rows) == 5 + len(self._declared):
            return rows
        spread = np.full((5 + len(self._declared), rows.shape[1]), np.nan)
        spread[:5] = rows[:5]
        for place, row in zip(self._filled, rows[5:], strict=False):
            spread[5 + place] = row
        return spread

    def _placed(self, extra: tuple[float, ...]) -> tuple[float, ...]:
        """The same for the extra values of one bar."""
        if not extra or self._in_order:
            return extra
        values = [math.nan] * len(self._declared)
        for place, value in zip(self._filled, extra, strict=False):
            values[place] = value
        return tuple(values)

    def _checked_extra(self, symbol: str) -> Extra | None:
        names = self._volumes
        if names and self._made_of_trades():
            # No bar is asked of REST.
            return Extra(names, (), (), streamed=False)
        if names and "price" in self.p.fetch_ohlcv_params:
            raise NotOfferedError(
                f"Bars of the {self.p.fetch_ohlcv_params['price']} price of {symbol} have no {', '.join(names)}: leave "
                "price= or these lines out."
            )
        connection = self.store.connection
        return connection.facts.find_extra(names, connection.account.exchange_id, connection.markets[symbol])

    def _checked_hours(self) -> Sessions | None:
        if self.p.sessions is None:
            return None
        if self.p.timeframe >= bt.TimeFrame.Days:
            raise ConfigError(
                f"sessions= picks bars by their opening time, but the bars of {self.p.dataname} last a day or more: "
                "ask for finer ones, and resample those."
            )
        return Sessions(self.p.sessions, self._gettz())

    def _choose_stamp(self) -> Stamp:
        stamp = super()._choose_stamp()
        if self.p.stamp is None and stamp != "open" and not self.store.stamp_told:
            self.store.stamp_told = True
            logger.info(
                "The datetime of a bar is its close, not its open as with other ccxt stores: seen at its open, a long "
                "bar would tell a strategy its future. CCXTStore(stamp='open') brings the open back."
            )
        return stamp

    def check(self) -> None:
        """Find what can be found wrong with this feed's arguments before the exchange is asked.

        Raises
        ------
        ConfigError
            The timeframe is none, the exchange does not offer it or has no OHLCV, or the dates are in the wrong order.
        """
        if self._ticks:
            self._check_ticks()
        else:
            self._length()
        self._span_ms()

    def _check_ticks(self) -> None:
        """Refuse what bars of a number of trades cannot have."""
        size, name = self.p.compression, self.p.dataname
        if type(size) is not int or not 1 <= size <= 1_000_000_000:
            raise ConfigError(f"compression={size!r} of {name} is no number of trades: give 1 or more.")
        if self._one_of("source", get_args(Source)) not in {"auto", "trades"}:
            raise ConfigError(f"source={self.p.source!r} gives no Ticks of {name}: use source='auto' or 'trades'.")
        if self._one_of("gaps", get_args(Gaps)) != "none":
            raise ConfigError(f"gaps={self.p.gaps!r}: bars of Ticks of {name} have no gaps; leave it out.")
        wrong = "partial=True" if self.p.partial else "align" if self.p.align is not None else ""
        if wrong or self._funded:
            raise ConfigError(
                f"{wrong or type(self).__name__} is for bars of some length, and those of {name} are Ticks: "
                f"{'leave it out' if wrong else 'use CCXTFeed'}, or ask for bars of bt.TimeFrame.Seconds or coarser."
            )

    def launch(self) -> Future[Any]:
        """Start to load this feed's bars, if that has not begun, and return the promise of its history.

        Raises
        ------
        ConfigError
            An unknown symbol or timeframe, or dates in the wrong order.
        NotOfferedError
            The exchange does not give a line that the class declares.
        """
        if self._sink is not None:
            return self._sink.promise
        store = self.store
        self.check()
        store.start()
        symbol = store.checked_symbol(self.p.dataname, "dataname")
        self._hours = self._checked_hours()
        flow, sink = self._tick_flow(symbol) if self._ticks else self._bar_flow(symbol)
        self.counts = flow.counts
        self._sink = sink
        store.connection.spawn(sink.run, flow, name=f"bars of {self.p.dataname}")
        return sink.promise

    def _bar_flow(self, symbol: str) -> tuple[Pipeline, _Sink]:
        store, timeframe = self.store, self._length()
        sink = self._make_sink(symbol, timeframe)
        pipeline = Pipeline(
            store.connection,
            None if self.p.historical else store.streams,
            symbol,
            timeframe,
            *self._span_ms(),
            sink,
            self.p.fetch_ohlcv_params,
            store.archive if self.p.archive is None else open_archive(self.p.archive),
            self.p.progress,
            source=self._one_of("source", get_args(Source)),
            gaps=self._one_of("gaps", get_args(Gaps)),
            polls=store.polls,
            longest_poll_ms=None if self.p.check_interval is None else int(1000 * self.p.check_interval),
            extra=self._checked_extra(symbol),
        )
        return pipeline, sink

    def _tick_flow(self, symbol: str) -> tuple[TickFlow, _Sink]:
        store, sink = self.store, _Sink(self, None)
        check_ticks(store.connection, live=self.islive())
        streams = None if self.p.historical else store.streams
        size, names = self.p.compression, self._volumes
        flow = TickFlow(store.connection, streams, symbol, size, *self._span_ms(), sink, self.p.progress, names)
        return flow, sink

    def _make_sink(self, symbol: str, timeframe: timeframes.Timeframe) -> _Sink:
        return _Sink(self, timeframe)

    def stop(self) -> None:
        """End the run; the next one loads anew."""
        super().stop()
        self._sink = self.tell_price = None

    @property
    def expecting(self) -> bool:
        """Whether live bars may still come."""
        return self.islive() and self._started

    @property
    def ready(self) -> bool:
        """Whether a pass of cerebro would find something here."""
        glimpsed = self._forming is not None and self._forming.waiting
        return bool(self.pending or self._held or self.notifs or len(self) < self.buflen() or glimpsed)

    def receive(self, item: list[Bar] | State | Exception) -> None:
        """Take bars or a change of state from the inbox, in the order in which they happened."""
        if self._held:
            self._held.append(item)
        elif isinstance(item, list):
            self._queue_bars(item)
        elif self.pending or len(self) < self.buflen():
            # A state that follows bars is told only when those bars have been delivered.
            self._held.append(item)
        else:
            self._tell(item)

    def glimpse(self, bar: Bar, at_ms: int, after_ms: int | None) -> None:
        """Take the forming bar as it was at a time of the exchange's clock, and the closed one that it follows."""
        if self._forming is None or (self._hours is not None and not self._hours.mask(np.array([bar.ts_ms]))[0]):
            return
        # Seen within the bar: its end is the stamp of the closed one.
        stamp_ms = bar.ts_ms
        if self._stamp != "open":
            stamp_ms = max(bar.ts_ms + 1, min(at_ms, self._stamp_of(bar.ts_ms) - 1))
        self._forming.see(Glimpse(stamp_ms, *bar[1:6], after_ms, self._placed(bar.extra) if self._filled else ()))

    def _tell(self, state: State | Exception) -> None:
        if isinstance(state, Exception):
            raise state
        if state is State.DISCONNECTED:
            self.finish()
        self.put_notification(getattr(self, state.name))

    def _queue_bars(self, bars: list[Bar]) -> None:
        self.given_ms = bars[-1].ts_ms
        for bar in bars:
            if self._hours is not None and not self._hours.mask(np.array([bar.ts_ms]))[0]:
                continue
            if self._filled:
                self.append(*bar[:6], self._placed(bar.extra))
            else:
                self.append(*bar[:6])
            origin = bar.origin.name.lower()
            self.origins[origin] = self.origins.get(origin, 0) + 1

    def _drained(self) -> None:
        """All bars are delivered: tell the states that waited for that, up to the next bars."""
        while self._held and not self.pending:
            item = self._held.popleft()
            if isinstance(item, list):
                self._queue_bars(item)
            else:
                self._tell(item)
        if self.p.historical:
            self.put_notification(self.DISCONNECTED)

    @property
    def _ticks(self) -> bool:
        return bool(self.p.timeframe == bt.TimeFrame.Ticks)

    def _made_of_trades(self) -> bool:
        """Whether no bar comes from REST."""
        if self._ticks:
            return True
        if self.p.source != "trades" or self.p.historical:
            return False
        rest = self.store.connection.rest
        offered = bool(rest.has.get("fetchOHLCV")) and self._length().text in (rest.timeframes or ())
        return self._span_ms()[0] is None or not offered

    def _length(self) -> timeframes.Timeframe:
        """Return the timeframe as the exchange writes it; one that it does not offer may be built from trades."""
        pair = self.p.timeframe, self.p.compression
        try:
            return timeframes.parse(self.store.get_granularity(*pair))
        except NotOfferedError:
            if self.p.source != "trades" or self.p.historical:
                raise
            return timeframes.parse(timeframes.from_backtrader(*pair))

    def _one_of(self, name: str, offered: tuple[str, ...]) -> Any:
        value = getattr(self.p, name)
        if value not in offered:
            raise ConfigError(f"{name}={value!r} of {self.p.dataname} is unknown: give one of {', '.join(offered)}.")
        return value

    def _checked_grace_s(self) -> float:
        align = self.p.align
        if align is not None and (not isinstance(align, (int, float)) or not 0 <= align < math.inf):
            raise ConfigError(f"align={align!r} of {self.p.dataname} is no time to wait: give seconds, such as 0.3.")
        return (align or 0.0) / self.store.connection.clock.rate

    def _span_ms(self) -> tuple[int | None, int | None]:
        start, end = self.p.fromdate, self.p.todate
        if start is not None and end is not None and self._utc_ms(start) > self._utc_ms(end):
            raise ConfigError(f"fromdate {start} of {self.p.dataname} is after todate {end}: swap them.")
        if not self.p.historical and not self.p.backfill_start:
            start = None
        # backtrader's todate includes the bar that opens on it.
        return (
            None if start is None else self._utc_ms(start),
            None if end is None else self._utc_ms(end) + 1,
        )

    def _utc_ms(self, when: dt.datetime | dt.date) -> int:
        moment = when if isinstance(when, dt.datetime) else dt.datetime.combine(when, dt.time())
        zone = self._gettz()
        if moment.tzinfo is None and zone is not None:
            moment = zone.localize(moment)
        return int(calendar.timegm(moment.utctimetuple()) * 1000 + moment.microsecond // 1000)

    def __getstate__(self) -> Any:
        attributes, cursor = super().__getstate__()
        # The store holds keys, locks and a thread: a copy in another process has the bars and asks for nothing.
        for name in ("store", "_store", "_sink", "_forming", "tell_price"):
            attributes.pop(name, None)
        return attributes, cursor


class CCXTFeedWithVolumes(CCXTFeed):
    """Bars with the number of trades, the volume in quote currency and the volume that buyers took; see `CCXTFeed`.

    For exchanges that give all three, as Binance does; for others declare in a subclass of `CCXTFeed` the lines that
    they give.
    """

    lines: Any = EXTRA_LINES


class CCXTFeedWithFunding(CCXTFeed):
    """Bars of a perpetual contract with its funding, as it was known when each bar closed; see `CCXTFeed`.

    Lines
    -----
    funding_rate
        The rate last paid, per worth of a position: by longs to shorts if it is positive.
    mark_price
        Of the contract, in quote currency. In the history, the close of the exchange's own bars of it, where it has
        them; live, the last one seen, NaN where none was seen for a minute, as in a break.
    next_funding_time
        When funding is paid next, in ms UTC.
    predicted_funding_rate
        What the exchange then said will be paid. Live only: no exchange keeps it, so that it is NaN in the history.

    Raises
    ------
    NotOfferedError
        At the start of a run: the market is no perpetual contract, or ccxt cannot ask for its funding.

    Notes
    -----
    Live values are streamed where ccxt can watch them, and asked for at least every five minutes; where nothing is
    streamed, just before each close. A subclass may declare the lines of `CCXTFeedWithVolumes` too.

    On Binance ccxt cannot watch mark price and ticker of one market at a time.
    """

    lines: Any = FUNDING_LINES
    _funded = FUNDING_LINES

    def _make_sink(self, symbol: str, timeframe: timeframes.Timeframe) -> _Sink:
        store = self.store
        check_funding(store.connection, symbol)
        watches = store.watches if self.islive() else None
        return _FundedSink(self, timeframe, Funding(store.connection, watches, symbol, timeframe))


class _Sink:
    """Brings what a flow of bars delivers on the I/O thread to a feed on cerebro's thread, for one run.

    What is still in the inbox when a run ends belongs to that run: the next one does not hear it.
    """

    def __init__(self, feed: CCXTFeed, timeframe: timeframes.Timeframe | None) -> None:
        self.feed = feed
        # None: the bars are ticks.
        self._timeframe = timeframe
        self._inbox = feed.store.inbox
        self._grace_s = feed._checked_grace_s()
        self._last_ms: int | None = None
        self._live = False
        self.partial = bool(feed.p.partial)
        self._glimpse = _Newest(self, feed.glimpse)
        self._price = _Newest(self, self._tell_price)
        self.promise: Future[Any] = Future()

    async def run(self, flow: Flow) -> None:
        """Bring what a flow of bars delivers."""
        await flow.run()

    def forming(self, bar: Bar) -> None:
        at_ms = self.feed.store.connection.clock.now_ms()
        if self._glimpse.put(bar, at_ms, self._last_ms):
            self._inbox.put(self._glimpse, None)

    @property
    def priced(self) -> bool:
        return self.feed.tell_price is not None

    def price(self, price: float) -> None:
        if self._price.put(price, self.feed.store.connection.clock.now_ms()):
            self._inbox.put(self._price, None)

    def _tell_price(self, price: float, at_ms: int) -> None:
        if self.feed.tell_price is not None:
            self.feed.tell_price(self.feed, price, at_ms)

    def receive(self, item: list[Bar] | State | Exception) -> None:
        """Hand an item on; runs on cerebro's thread."""
        if self.feed._sink is self:
            self.feed.receive(item)

    def history(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        self._last_ms = int(ts_ms[-1]) if len(ts_ms) else None
        self.promise.set_result((ts_ms, ohlcv, origin))

    def failed(self, error: Exception) -> None:
        if self.promise.done():
            self._inbox.put(self, error)
        else:
            self.promise.set_exception(error)

    def bars(self, bars: list[Bar]) -> None:
        self._last_ms = bars[-1].ts_ms
        self._inbox.put(self, bars, self._slot(gather=len(bars) == 1))

    def state(self, state: State, reason: str) -> None:
        name = self.feed.p.dataname
        logger.info("%s: %s%s", name, state.value, f" ({reason})" if reason else "")
        if state is State.NOTSUBSCRIBED:
            self.feed.store.put_notification(f"{name} gives no more bars: {reason}")
        self._live = state is State.LIVE
        self._inbox.put(self, state, self._slot(gather=False))

    def _slot(self, *, gather: bool) -> Slot | None:
        """Say with which bars of other feeds the last one gathers, and when the next is to be expected."""
        if not self._grace_s or not self._live or self._last_ms is None or self._timeframe is None:
            return None
        close_ms = timeframes.next_ms(self._timeframe, self._last_ms)
        return Slot(close_ms if gather else None, timeframes.next_ms(self._timeframe, close_ms), self._grace_s)

    def correction(self, kept: Bar | None, came: Bar) -> None:
        self.feed.corrections += 1
        what = "a bar that had been found not to exist came late" if kept is None else f"the bar {kept} came again"
        text = f"{self.feed.p.dataname}: {what} as {came}; what was delivered stays."
        logger.warning("%s", text)
        self.feed.store.put_notification(text)


class _FundedSink(_Sink):
    """The same, with what is known of funding behind the other values of each bar."""

    def __init__(self, feed: CCXTFeed, timeframe: timeframes.Timeframe, funding: Funding) -> None:
        super().__init__(feed, timeframe)
        self._funding = funding
        self._unknown = (math.nan,) * len(feed._volumes)

    async def run(self, flow: Flow) -> None:
        if await self._succeeds(self._funding.begin(self.feed._span_ms()[0])):
            await flow.run()

    def history(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        self._last_ms = int(ts_ms[-1]) if len(ts_ms) else None
        self.feed.store.connection.spawn(self._finish, ts_ms, ohlcv, origin, name=f"funding of {self.feed.p.dataname}")

    async def _finish(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        await self._succeeds(self._complete(ts_ms, ohlcv, origin))

    async def _complete(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        rows = np.vstack([ohlcv, await self._funding.columns(ts_ms)])
        if not self.promise.done():
            self.promise.set_result((ts_ms, rows, origin))

    async def _succeeds(self, work: Awaitable[None]) -> bool:
        """Do what the history waits for; whether it could be done. If not, the feed hears why."""
        try:
            await work
        except asyncio.CancelledError:
            self.failed(TryLaterError(f"The store stopped while {self.feed.p.dataname} was loading: start it again."))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the feed that waits for it must hear it
            self.failed(error)
            return False
        return True

    def bars(self, bars: list[Bar]) -> None:
        super().bars([self._funded(bar, self._funding.at(bar.ts_ms)) for bar in bars])

    def forming(self, bar: Bar) -> None:
        super().forming(self._funded(bar, self._funding.now()))

    def _funded(self, bar: Bar, values: tuple[float, ...]) -> Bar:
        return bar._replace(extra=(bar.extra if self._unknown and bar.extra else self._unknown) + values)


class _Newest:
    """The newest of something that passes, on its way to cerebro's thread: a slow strategy skips the older ones."""

    def __init__(self, sink: _Sink, hear: Callable[..., None]) -> None:
        self._sink = sink
        self._hear = hear
        self._newest: deque[tuple[Any, ...]] = deque(maxlen=1)

    def put(self, *told: Any) -> bool:
        """Take the newest on the I/O thread; return whether cerebro's thread must be told that there is one."""
        waits = bool(self._newest)
        self._newest.append(told)
        return not waits

    def receive(self, item: None) -> None:
        """Hand the newest on; runs on cerebro's thread."""
        told = self._newest.popleft()
        if self._sink.feed._sink is self._sink:
            self._hear(*told)


CCXTStore.DataCls = CCXTFeed

"""CCXTFeed: a backtrader data over an exchange's bars: history, hand-over, live."""

from __future__ import annotations

import calendar
import datetime as dt
import logging
import math
from collections import deque
from concurrent.futures import Future
from typing import Any, get_args

import backtrader as bt
import numpy as np

from ccxtbt.bulkfeed import BulkFeed, Stamp
from ccxtbt.ccxtstore import CCXTStore, log_in_detail, open_archive
from ccxtbt.compat import oldoptions
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.connection import as_ours
from ccxtbt.forming import FormingBar, Glimpse
from ccxtbt.gathering import Slot
from ccxtbt.market import timeframes
from ccxtbt.market.handover import Bar, Counts, Gaps, Origin
from ccxtbt.market.history import empty
from ccxtbt.market.pipeline import Pipeline, Source, State
from ccxtbt.market.sessions import Sessions
from ccxtbt.resampled import BarClone, BarReplayer, BarResampler, LiveClone, ResampledFeed, waits

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
    break, DELAYED while what was missed is fetched, LIVE again; NOTSUBSCRIBED, after the history, where the exchange
    does not stream this market; DISCONNECTED at the end of ``historical`` and at ``todate``.

    Parameters
    ----------
    dataname : str
        ccxt's unified symbol, such as ``'BTC/USDT'``; also spelled ``symbol``.
    timeframe, compression : int
        backtrader's pair; ``timeframe`` may also be text such as ``'5m'``.
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
        Keep the history on disk, as the store's own argument says; None: as the store does.
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
    TryLaterError
        At the start of a run: the exchange does not answer.
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

    def __init__(self) -> None:
        super().__init__()
        if self.p.debug:
            log_in_detail()
        self._held: deque[list[Bar] | State | Exception] = deque()
        self._sink: _Sink | None = None
        self._hours: Sessions | None = None
        self._forming: FormingBar | None = None
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
        super().qbuffer(savemem, replaying=replaying or self.p.partial)

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
        return ResampledFeed(base=self, timeframe=timeframe, compression=compression, **kwargs)

    def since_ms(self) -> int | None:
        """Return from when on no bar is missing, in ms UTC: the first date asked for, or the first bar."""
        start_ms, _ = self._span_ms()
        return super().since_ms() if start_ms is None else start_ms

    def resample(self, **kwargs: Any) -> None:
        """Let this feed's bars be resampled; cerebro calls it."""
        self._refuse_partial()
        self.addfilter(BarResampler, **kwargs)
        self._close_alone()

    def replay(self, **kwargs: Any) -> None:
        """Let this feed's bars be replayed; cerebro calls it."""
        self._refuse_partial()
        self.addfilter(BarReplayer, **kwargs)
        self._close_alone()

    def _refuse_partial(self) -> None:
        if self.p.partial:
            raise ConfigError(
                f"{self.p.dataname} delivers its forming bar, which cannot be filtered, resampled or replayed: take "
                "partial=True out, or use a second feed without it, or data.resampled()."
            )

    def _close_alone(self) -> None:
        # On the feed itself: the others keep the methods in C, which cerebro calls on every data in every pass.
        if self.islive():
            self.__dict__.update(_check=self._check_nothing, next=self._next_beside)

    def _check_nothing(self, forcedata: Any = None) -> None:
        """Close no bar by a clock or by another market's bar: its own last part may still be on the way."""

    def _next_beside(self, datamaster: Any = None, ticks: bool = True) -> Any:
        if datamaster is None and waits(self):
            return None
        return type(self).next(self, datamaster, ticks)

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
        feeds = [data for data in self._env.datas if isinstance(data, CCXTFeed)] or [self]
        try:
            for feed in feeds:
                feed.launch()
            ts_ms, ohlcv, origin = self.store.outcome(self.launch(), (*empty(), empty()[0]))
        except BaseException as error:
            # This run ends before it has begun; the next one loads anew.
            for feed in feeds:
                feed._sink = None
            if isinstance(error, Exception):
                raise as_ours(error, f"Loading the bars of {self.p.dataname}") from error
            raise
        self.origins = {each.name.lower(): n for each in Origin if (n := int((origin == each).sum()))}
        self.given_ms = int(ts_ms[-1]) if len(ts_ms) else None
        self.set_columns(*self._in_session(ts_ms, ohlcv))
        if self.p.fromdate is not None:
            self.put_notification(self.DELAYED)
        logger.info("%s: %d bars of history.", self.p.dataname, len(ts_ms))

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
        self._length()
        self._span_ms()

    def launch(self) -> Future[Any]:
        """Start to load this feed's bars, if that has not begun, and return the promise of its history.

        Raises
        ------
        ConfigError
            An unknown symbol or timeframe, or dates in the wrong order.
        """
        if self._sink is not None:
            return self._sink.promise
        store = self.store
        self.check()
        store.start()
        symbol = store.checked_symbol(self.p.dataname, "dataname")
        self._hours = self._checked_hours()
        timeframe = self._length()
        sink = _Sink(self, timeframe)
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
        )
        self.counts = pipeline.counts
        self._sink = sink
        store.connection.spawn(pipeline.run, name=f"bars of {self.p.dataname}")
        return sink.promise

    def stop(self) -> None:
        """End the run; the next one loads anew."""
        super().stop()
        self._sink = None

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
        self._forming.see(Glimpse(stamp_ms, *bar[1:6], after_ms))

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
        for name in ("store", "_store", "_sink", "_forming"):
            attributes.pop(name, None)
        return attributes, cursor


class _Sink:
    """Brings what a pipeline delivers on the I/O thread to a feed on cerebro's thread, for one run.

    What is still in the inbox when a run ends belongs to that run: the next one does not hear it.
    """

    def __init__(self, feed: CCXTFeed, timeframe: timeframes.Timeframe) -> None:
        self.feed = feed
        self._timeframe = timeframe
        self._inbox = feed.store.inbox
        self._grace_s = feed._checked_grace_s()
        self._last_ms: int | None = None
        self._live = False
        self.partial = bool(feed.p.partial)
        self._glimpse = _Glimpses(feed, self)
        self.promise: Future[Any] = Future()

    def forming(self, bar: Bar) -> None:
        at_ms = self.feed.store.connection.clock.now_ms()
        if self._glimpse.put(bar, at_ms, self._last_ms):
            self._inbox.put(self._glimpse, None)

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
            self.feed.store.put_notification(f"{name} cannot be streamed: {reason}")
        self._live = state is State.LIVE
        self._inbox.put(self, state, self._slot(gather=False))

    def _slot(self, *, gather: bool) -> Slot | None:
        """Say with which bars of other feeds the last one gathers, and when the next is to be expected."""
        if not self._grace_s or not self._live or self._last_ms is None:
            return None
        close_ms = timeframes.next_ms(self._timeframe, self._last_ms)
        return Slot(close_ms if gather else None, timeframes.next_ms(self._timeframe, close_ms), self._grace_s)

    def correction(self, kept: Bar | None, came: Bar) -> None:
        self.feed.corrections += 1
        what = "a bar that had been found not to exist came late" if kept is None else f"the bar {kept} came again"
        text = f"{self.feed.p.dataname}: {what} as {came}; what was delivered stays."
        logger.warning("%s", text)
        self.feed.store.put_notification(text)


class _Glimpses:
    """The newest glimpse of a forming bar, on its way to cerebro's thread: a slow strategy skips the older ones."""

    def __init__(self, feed: CCXTFeed, sink: _Sink) -> None:
        self.feed = feed
        self._sink = sink
        self._newest: deque[tuple[Bar, int, int | None]] = deque(maxlen=1)

    def put(self, *glimpse: Any) -> bool:
        """Take a glimpse on the I/O thread; return whether one must be told that there is one."""
        waits = bool(self._newest)
        self._newest.append(glimpse)
        return not waits

    def receive(self, item: None) -> None:
        """Hand the newest on; runs on cerebro's thread."""
        glimpse = self._newest.popleft()
        if self.feed._sink is self._sink:
            self.feed.glimpse(*glimpse)


CCXTStore.DataCls = CCXTFeed

"""OHLCV as columns through ccxt's own `fetch_ohlcv`, without an object for each bar.

ccxt builds the request, signs it, sends it and looks for errors in the answer, as ever. Only the rows go past it: the
decoder reads them from the answer's text, which ccxt then gets with no more than the first and the last row in it.
ccxt's own reading of these two is the proof that ours is right; wherever it is not, and until an exchange's layout is
learnt, ccxt reads all of them.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import ccxt
import numpy as np
from numpy import float64, int64
from numpy.typing import NDArray

from ccxtbt._ohlcv import Layout, decode, decode_and_splice, rows_to_columns
from ccxtbt.errors import DataError
from ccxtbt.exchange.facts import Extra
from ccxtbt.exchange.layouts import Bar, find_layout, follow, proves

Columns = tuple[NDArray[int64], NDArray[float64]]

# Parameters that say which bars are wanted, not how they are written.
MOVING = frozenset({"since", "until", "limit", "startTime", "endTime", "start", "end", "from", "to", "after", "before"})

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """How answers were read.

    Attributes
    ----------
    fast : int
        By the decoder, proved by ccxt.
    ccxt : int
        By ccxt, row by row.
    disproved : int
        Of those, the ones that the decoder read too, but differently from ccxt, or that ccxt changed afterwards.
    """

    fast: int = 0
    ccxt: int = 0
    disproved: int = 0


@dataclass(slots=True)
class _Fetch:
    """A call of `fetch_columns` under way, as ccxt's hooks see it.

    Attributes
    ----------
    layout : Layout or None
        How the answer is expected to be written.
    extra : Extra or None
        What is wanted beside prices and volume.
    body, answer : str or bytes, object
        The last answer, and what ccxt was given of it.
    columns : tuple or None
        What the decoder read of it.
    beside : tuple or None
        The extra values that the decoder read of it, in the rows that begin a block of five, by their times.
    bars, sample : list
        What `parse_ohlcvs` returned, and a copy of its first and last bar.
    learnt : Layout or None
        The layout found in an answer that ccxt read.
    unread : bool
        The last answer is no JSON.
    doubtful : bool
        ccxt did something with the two rows that is not understood.
    """

    layout: Layout | None
    extra: Extra | None = None
    body: str | bytes = ""
    answer: Any = None
    columns: Columns | None = None
    beside: Columns | None = None
    bars: list[Bar] | None = None
    sample: list[Bar] = field(default_factory=list)
    learnt: Layout | None = None
    unread: bool = False
    doubtful: bool = False

    def returned(self, bars: list[Bar]) -> list[Bar]:
        """Note what `parse_ohlcvs` returns."""
        self.bars = bars
        self.sample = [list(bar) for bar in (*bars[:1], *bars[-1:])]
        return bars

    def is_untouched(self, bars: list[Bar]) -> bool:
        """Whether this is what `parse_ohlcvs` returned: some exchanges' code moves times or fills gaps afterwards."""
        return bars is self.bars and self.sample == [*bars[:1], *bars[-1:]]

    def read_beside(self, layout: Layout) -> None:
        """Read the extra values of the answer, whose five that everybody wants are read as `layout` says."""
        self.beside = None
        if self.extra is None or layout.fields != self.extra.fields:
            return
        try:
            self.beside = decode(self.body, extra_layout(layout, self.extra))
        except DataError as e:
            logger.debug("An answer has not the extra values that it should have: %s", e)


# ccxt's hooks know nothing of the call that they serve; tasks that ccxt starts inherit the context of that call.
_FETCH: ContextVar[_Fetch | None] = ContextVar("_FETCH", default=None)


def within(columns: Columns, since_ms: int | None, limit: int | None, tail: bool) -> Columns:
    """Return the bars that ccxt's `filter_by_since_limit` would leave."""
    ts_ms, ohlcv = columns
    first, stop = 0, len(ts_ms)
    if since_ms is not None:
        first = int(np.searchsorted(ts_ms, max(since_ms, 1)))
    if limit and stop - first > limit:
        if since_ms is None or tail:
            first = stop - limit
        else:
            stop = first + limit
    if stop - first == len(ts_ms):
        return columns
    return ts_ms[first:stop].copy(), np.ascontiguousarray(ohlcv[:, first:stop])


def extra_layout(layout: Layout, extra: Extra) -> Layout:
    """Return the layout that reads the extra values in the place of the prices; what room is left, prices fill."""
    spare = (place for place in layout.fields[1:] if place not in extra.places)
    fields = (layout.fields[0], *extra.places, *spare)[:6]
    return Layout(fields, rows=layout.rows, path=layout.path, time=layout.time)


def with_extra(columns: Columns, beside: Columns | None, extra: Extra) -> Columns:
    """Return columns with a row for each extra value, found by its time; NaN where there is none."""
    ts_ms, ohlcv = columns
    rows = np.full((len(ohlcv) + len(extra.names), len(ts_ms)), np.nan)
    rows[: len(ohlcv)] = ohlcv
    if beside is not None and len(beside[0]):
        at = np.searchsorted(beside[0], ts_ms, "right") - 1
        found = beside[0][at] == ts_ms
        rows[len(ohlcv) :, found] = beside[1][: len(extra.names), at[found]]
    return ts_ms, rows


def _ends(columns: Columns) -> list[Bar]:
    """Return the first and the last bar as ccxt writes them; one if there is but one."""
    ts_ms, ohlcv = columns
    return [[int(ts_ms[at]), *ohlcv[:, at].tolist()] for at in range(0, len(ts_ms), max(1, len(ts_ms) - 1))]


class ColumnsMixin:
    """Gives any asynchronous ccxt exchange `fetch_columns`; stands before it among the bases.

    Attributes
    ----------
    ccxtbt_counts : Counts
        How answers were read so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ccxtbt_counts = Counts()
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._misfits: set[tuple[Any, ...]] = set()
        self._without_extra: set[tuple[Any, ...]] = set()
        super().__init__(*args, **kwargs)

    async def fetch_columns(
        self,
        symbol: str,
        timeframe: str = "1m",
        since: int | None = None,
        limit: int | None = None,
        params: dict[str, Any] | None = None,
        extra: Extra | None = None,
    ) -> Columns:
        """Fetch OHLCV as ccxt's `fetch_ohlcv` does, as columns.

        Parameters
        ----------
        symbol, timeframe, since, limit, params
            As ccxt takes them; `since` in ms UTC.
        extra : Extra, optional
            What is wanted beside prices and volume: a second reading of the same answer. NaN where only ccxt can
            read it.

        Returns
        -------
        ts_ms : numpy.ndarray
            int64[n], opening times in ms UTC, oldest first.
        ohlcv : numpy.ndarray
            float64[5 + k, n], C-contiguous: open, high, low, close, volume, and the k extra values.

        Raises
        ------
        DataError
            The answer holds a bar without time or price, or is no JSON: empty, cut short, HTML.
        ccxt.BaseError
            As ccxt's `fetch_ohlcv` does.
        """
        exchange: Any = self
        params = params or {}
        if exchange.markets is None:
            await exchange.load_markets()
        # One market may be written in several ways: candles of trades, of the mark price, gathered from several pages.
        key = (symbol, timeframe, *sorted((name, str(params[name])) for name in params if name not in MOVING))
        # ccxt keeps the parsed answer for those who ask: then it must be whole.
        fetch = _Fetch(None if exchange.enableLastJsonResponse else self._layouts.get(key), extra)
        bars = await self._fetch(fetch, symbol, timeframe, since, limit, params)
        untouched = fetch.is_untouched(bars) and not fetch.doubtful
        columns, fetch.columns = fetch.columns, None
        if columns is not None and untouched:
            self.ccxtbt_counts.fast += 1
            return self._extended(columns, fetch, key)
        if columns is not None or fetch.doubtful:
            logger.warning(
                "%s: bars of %s are read row by row from now on: ccxt changes them after reading.", exchange.id, symbol
            )
            self.ccxtbt_counts.disproved += 1
            self._misfits.add(key)
            self._layouts.pop(key, None)
            fetch = _Fetch(None, extra)
            bars = await self._fetch(fetch, symbol, timeframe, since, limit, params)
            untouched = False
        elif fetch.learnt is not None and untouched and key not in self._misfits:
            self._layouts[key] = fetch.learnt
        self.ccxtbt_counts.ccxt += 1
        if not untouched:
            # ccxt has moved these bars: their times are not those of the answer.
            fetch.beside = None
        return self._extended(rows_to_columns(bars), fetch, key)

    def _extended(self, columns: Columns, fetch: _Fetch, key: tuple[Any, ...]) -> Columns:
        """Return columns with the extra values that are wanted."""
        if fetch.extra is None:
            return columns
        if fetch.beside is None and len(columns[0]) and key not in self._without_extra:
            self._without_extra.add(key)
            exchange: Any = self
            logger.warning(
                "%s: bars of %s come without %s: ccxt alone can read them.",
                exchange.id,
                key[0],
                ", ".join(fetch.extra.names),
            )
        return with_extra(columns, fetch.beside, fetch.extra)

    async def _fetch(self, fetch: _Fetch, *request: Any) -> list[Bar]:
        """Call ccxt's `fetch_ohlcv` with its hooks told of it."""
        exchange: Any = self
        armed = _FETCH.set(fetch)
        try:
            bars: list[Bar] = await exchange.fetch_ohlcv(*request)
            unread = fetch.unread or fetch.answer is None
        finally:
            _FETCH.reset(armed)
            # Timers of open connections keep the context for a while: the answer need not live as long.
            fetch.body, fetch.answer = "", None
        if unread:
            # ccxt takes an answer that is no JSON for one without bars.
            raise DataError(
                f"{exchange.id} answered the request for {request[1]} bars of {request[0]} with what is no JSON: "
                f"{str(exchange.last_http_response)[:100]!r}; nothing of it was used, so ask again later."
            )
        return bars

    def on_json_response(self, response_body: str | bytes) -> Any:
        """Parse an answer; of rows that the decoder can read, only the first and the last."""
        parse = super().on_json_response  # type: ignore[misc]  # the mixin stands before ccxt's class
        fetch = _FETCH.get()
        if fetch is None:
            return parse(response_body)
        fetch.body, fetch.columns, fetch.unread = response_body, None, True
        if fetch.layout is not None:
            try:
                ts_ms, ohlcv, rest = decode_and_splice(response_body, fetch.layout)
            except DataError as e:
                # An error message of the exchange, mostly: ccxt knows what it means.
                logger.debug("The decoder leaves an answer to ccxt: %s", e)
            else:
                response_body, fetch.columns = rest, (ts_ms, ohlcv)
                fetch.read_beside(fetch.layout)
        fetch.answer = parse(response_body)
        fetch.unread = False
        return fetch.answer

    def parse_ohlcvs(
        self,
        ohlcvs: Any,
        market: Any = None,
        timeframe: str = "1m",
        since: int | None = None,
        limit: int | None = None,
        tail: bool = False,
    ) -> list[Bar]:
        """Parse rows as ccxt does; where the decoder has read them, prove and return the first and the last bar."""
        exchange: Any = self
        parse_all = super().parse_ohlcvs  # type: ignore[misc]  # the mixin stands before ccxt's class
        fetch = _FETCH.get()
        if fetch is not None and fetch.columns is not None and fetch.layout is not None:
            left = None if fetch.layout.rows == "columns" else follow(fetch.answer, fetch.layout.path)
            proof = [exchange.parse_ohlcv(row, market) for row in ohlcvs]
            if (ohlcvs is left or left is None) and proves(*fetch.columns, proof):
                fetch.columns = within(fetch.columns, since, limit, tail)
                return fetch.returned(_ends(fetch.columns))
            if ohlcvs is not left:
                fetch.doubtful = True
                return fetch.returned(proof)
            logger.info("%s: the decoder read bars differently from ccxt, whose reading is used.", exchange.id)
            self.ccxtbt_counts.disproved += 1
            fetch.columns = fetch.beside = None
            fetch.answer = super().on_json_response(fetch.body)  # type: ignore[misc]  # as above
            ohlcvs = follow(fetch.answer, fetch.layout.path)
        bars: list[Bar] = parse_all(ohlcvs, market, timeframe, since, limit, tail)
        if fetch is None:
            return bars
        fetch.learnt = self._learn(fetch, market, ohlcvs)
        return fetch.returned(bars)

    def _learn(self, fetch: _Fetch, market: Any, rows: Any) -> Layout | None:
        """Find the layout of an answer that ccxt has read, and try it on that answer."""
        exchange: Any = self

        def parse(row: Any) -> Any:
            return exchange.parse_ohlcv(row, market)

        try:
            layout = find_layout(parse, fetch.answer, rows)
            if layout is None:
                return None
            ts_ms, ohlcv = decode(fetch.body, layout)
            if not proves(ts_ms, ohlcv, [parse(rows[0]), parse(rows[-1])]):
                layout = None
        except (ccxt.BaseError, ArithmeticError, LookupError, TypeError, ValueError) as e:
            # ccxt's code was given rows that no exchange sent: whatever it makes of them, there is no layout to learn.
            logger.debug("%s: no layout is learnt: %r", exchange.id, e)
            return None
        if layout is not None:
            fetch.read_beside(layout)
        return layout

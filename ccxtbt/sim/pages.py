"""Pages of klines: rows are encoded once, when their bars have closed, and joined for each request."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ccxtbt.sim.kline import HOUR_MS, INTERVALS, Bar, aggregate_columns, end_of, open_of
from ccxtbt.sim.spec import E8, Spec
from ccxtbt.sim.tape import Hour

# Bytes of rows kept for a symbol: two years of 1m bars.
_KEEP_BYTES = 192_000_000

_ROW = '[%d,"%d.%08d","%d.%08d","%d.%08d","%d.%08d","%d.%08d",%d,"%d.%08d",%d,"%d.%08d","%d.%08d","0"]'


def encoder(spec: Spec) -> Callable[[Bar], str]:
    """Return a function that writes a bar of a symbol as Binance's kline row in JSON."""
    tick, step = spec.tick_e8, spec.step_e8

    def encode(bar: Bar) -> str:
        return _ROW % (
            bar.open_ms,
            *divmod(bar.open * tick, E8),
            *divmod(bar.high * tick, E8),
            *divmod(bar.low * tick, E8),
            *divmod(bar.close * tick, E8),
            *divmod(bar.volume * step, E8),
            bar.end_ms - 1,
            *divmod(bar.quote * tick * step // E8, E8),
            bar.n_trades,
            *divmod(bar.taker_volume * step, E8),
            *divmod(bar.taker_quote * tick * step // E8, E8),
        )

    return encode


@dataclass(slots=True)
class _Chunk:
    """Encoded rows of neighbouring bars: row `i` is ``text[offsets[i] : offsets[i + 1] - 1]``, a comma between two."""

    opens: array[int]
    offsets: array[int]
    text: bytes

    def rows(self, first: int, stop: int) -> bytes:
        return self.text[self.offsets[first] : self.offsets[stop] - 1]


class Pages:
    """The bars of one market.

    Bars of up to an hour are made an hour at a time straight from the trades; longer ones one by one from the bars of
    their hours.

    Parameters
    ----------
    spec : Spec
        The symbol.
    hour : callable
        Gives the trades of an hour, counted from the epoch, or None.
    history_start_ms : int
        A full hour; nothing is older.
    flat : bool
        Whether a bar without trades is a flat row.
    """

    def __init__(self, spec: Spec, hour: Callable[[int], Hour | None], history_start_ms: int, *, flat: bool) -> None:
        self.encode = encoder(spec)
        self._hour = hour
        self._history_start_ms = history_start_ms
        self._flat = flat
        self._chunks: dict[tuple[str, int], _Chunk] = {}
        self._kept_bytes = 0
        self._hour_bars: dict[int, Bar | None] = {}

    def page(self, interval: str, start_ms: int | None, end_ms: int | None, limit: int, now_ms: int) -> bytes:
        """Return at most `limit` rows as a JSON array: from `start_ms` on, or the last ones.

        Raises
        ------
        KeyError
            If the interval is none of `INTERVALS`.
        """
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        parts = []
        left = limit
        if start_ms is not None:
            chunk_ms = _chunk_open(interval, max(start_ms, self._history_start_ms))
            while chunk_ms <= last_ms and left > 0:
                chunk = self._chunk(interval, chunk_ms, now_ms, start_ms)
                first, stop = bisect_left(chunk.opens, start_ms), bisect_right(chunk.opens, last_ms)
                stop = min(stop, first + left)
                if first < stop:
                    parts.append(chunk.rows(first, stop))
                    left -= stop - first
                chunk_ms = _chunk_end(interval, chunk_ms)
        else:
            chunk_ms = _chunk_open(interval, last_ms)
            while left > 0 and _chunk_end(interval, chunk_ms) > self._history_start_ms:
                chunk = self._chunk(interval, chunk_ms, now_ms)
                stop = bisect_right(chunk.opens, last_ms)
                first = max(0, stop - left)
                if first < stop:
                    parts.append(chunk.rows(first, stop))
                    left -= stop - first
                chunk_ms = _chunk_open(interval, chunk_ms - 1)
            parts.reverse()
        return b"[%b]" % b",".join(parts)

    def bar(self, interval: str, now_ms: int) -> Bar | None:
        """Return the bar that holds `now_ms`, of trades up to then; None if it has none yet."""
        open_ms = open_of(interval, now_ms)
        return self._long_bar(open_ms, end_of(interval, open_ms), open_ms, now_ms)

    def span(self, after_ms: int, to_ms: int) -> Bar | None:
        """Return one bar of all trades later than `after_ms` and up to `to_ms`."""
        return self._long_bar(after_ms + 1, to_ms + 1, after_ms + 1, to_ms)

    def close_before(self, ms: int) -> int | None:
        """Return the price in ticks of the last trade before `ms`."""
        number = (ms - 1) // HOUR_MS
        while (number + 1) * HOUR_MS > self._history_start_ms:
            hour = self._hour(number)
            if hour is not None and (stop := bisect_left(hour.ts_ms, ms)):
                return hour.price_ticks[stop - 1]
            number -= 1
        return None

    def _chunk(self, interval: str, chunk_ms: int, now_ms: int, from_ms: int = 0) -> _Chunk:
        """Return the rows of a chunk as of `now_ms`; kept once the chunk is over, until then only those wanted."""
        key = (interval, chunk_ms)
        if _chunk_end(interval, chunk_ms) > now_ms:
            first_ms = max(chunk_ms, open_of(interval, from_ms))
            return self._encode(self._bars(interval, chunk_ms, first_ms, now_ms))
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._encode(self._bars(interval, chunk_ms, chunk_ms, now_ms))
            self._keep(key, chunk)
        return chunk

    def _keep(self, key: tuple[str, int], chunk: _Chunk) -> None:
        self._chunks[key] = chunk
        self._kept_bytes += len(chunk.text)
        while self._kept_bytes > _KEEP_BYTES:
            # A list, since another thread may be reading: iterating the dict itself would fail.
            oldest = self._chunks.pop(next(iter(list(self._chunks))))
            self._kept_bytes -= len(oldest.text)

    def _encode(self, bars: Iterator[Bar]) -> _Chunk:
        opens, offsets = array("q"), array("L", [0])
        rows = []
        length = 0
        for bar in bars:
            row = self.encode(bar)
            rows.append(row)
            opens.append(bar.open_ms)
            length += len(row) + 1
            offsets.append(length)
        return _Chunk(opens, offsets, ",".join(rows).encode())

    def _bars(self, interval: str, chunk_ms: int, first_ms: int, now_ms: int) -> Iterator[Bar]:
        """Yield the bars of a chunk that open from `first_ms` on and have opened by `now_ms`."""
        length_ms = INTERVALS[interval]
        if 0 < length_ms <= HOUR_MS:
            bars = self._short_bars(length_ms, first_ms, now_ms)
        else:
            length_ms = end_of(interval, chunk_ms) - chunk_ms
            bar = self._long_bar(chunk_ms, chunk_ms + length_ms, chunk_ms, now_ms)
            bars = [] if bar is None else [bar]
        if self._flat:
            stop_ms = min(chunk_ms + max(length_ms, HOUR_MS), now_ms + 1)
            return self._with_flat_bars(bars, first_ms, stop_ms, length_ms)
        return iter(bars)

    def _with_flat_bars(self, bars: list[Bar], open_ms: int, stop_ms: int, length_ms: int) -> Iterator[Bar]:
        """Yield the bars with a flat one in every silent place but before the first trade of all."""
        close = self.close_before(open_ms) if not bars or bars[0].open_ms > open_ms else None
        coming = iter([*bars, None])
        bar = next(coming)
        for at_ms in range(open_ms, stop_ms, length_ms):
            if bar is not None and bar.open_ms == at_ms:
                yield bar
                close = bar.close
                bar = next(coming)
            elif close is not None:
                yield Bar(at_ms, at_ms + length_ms, close)

    def _short_bars(self, length_ms: int, first_ms: int, now_ms: int) -> list[Bar]:
        """Return the bars of one hour that open from `first_ms` on; `length_ms` divides it."""
        hour = self._hour(first_ms // HOUR_MS) if first_ms >= self._history_start_ms else None
        if hour is None:
            return []
        return _aggregate(hour, bisect_left(hour.ts_ms, first_ms), bisect_right(hour.ts_ms, now_ms), length_ms)

    def _long_bar(self, open_ms: int, end_ms: int, from_ms: int, now_ms: int) -> Bar | None:
        """Return one bar of the trades from `from_ms` up to `now_ms` and before `end_ms`."""
        total: Bar | None = None
        at_ms = max(from_ms, self._history_start_ms)
        stop_ms = min(end_ms, now_ms + 1)
        while at_ms < stop_ms:
            number = at_ms // HOUR_MS
            next_ms = min((number + 1) * HOUR_MS, stop_ms)
            whole = next_ms - at_ms == HOUR_MS
            part = self._hour_bar(number) if whole else self._part_of_hour(number, at_ms, next_ms)
            if part is not None:
                if total is None:
                    total = Bar(open_ms, end_ms, part.open)
                total.merge(part)
            at_ms = next_ms
        return total

    def _hour_bar(self, number: int) -> Bar | None:
        """Return the bar of a whole hour that is over."""
        if number not in self._hour_bars:
            self._hour_bars[number] = self._part_of_hour(number, number * HOUR_MS, (number + 1) * HOUR_MS)
        return self._hour_bars[number]

    def _part_of_hour(self, number: int, from_ms: int, stop_ms: int) -> Bar | None:
        hour = self._hour(number)
        if hour is None:
            return None
        bars = _aggregate(hour, bisect_left(hour.ts_ms, from_ms), bisect_left(hour.ts_ms, stop_ms), HOUR_MS)
        return bars[0] if bars else None


def _aggregate(hour: Hour, first: int, stop: int, length_ms: int) -> list[Bar]:
    return aggregate_columns(
        length_ms,
        hour.first_id + first,
        hour.ts_ms[first:stop].tolist(),
        hour.price_ticks[first:stop].tolist(),
        hour.qty_steps[first:stop].tolist(),
        hour.buyer_is_maker[first:stop],
    )


def _chunk_open(interval: str, ms: int) -> int:
    """Return where the rows begin that are kept together with those of `ms`: its hour, or its bar if that is longer."""
    if 0 < INTERVALS[interval] <= HOUR_MS:
        return ms - ms % HOUR_MS
    return open_of(interval, ms)


def _chunk_end(interval: str, chunk_ms: int) -> int:
    if 0 < INTERVALS[interval] <= HOUR_MS:
        return chunk_ms + HOUR_MS
    return end_of(interval, chunk_ms)

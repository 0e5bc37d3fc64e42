"""Bars kept on disk, as Parquet: what was downloaded once is not asked for again.

One folder a market and timeframe, one file a stretch of the calendar (a day of bars shorter than a minute, a month of
bars shorter than an hour, else a year), by UTC::

    <root>/binance/BTC_USDT/1m/2024-03.parquet

Each file has the columns ``ts_ms`` (int64: open, ms since 1970 UTC), ``open``, ``high``, ``low``, ``close`` and
``volume`` (float64), sorted by ``ts_ms``, each bar once; nothing of ours is needed to read it. Bars with more columns
lie in a folder of their own, such as ``1m+trades+quote_volume``. What is complete stands in the same file, in Parquet's
own key-value metadata under ``ccxtbt`` (JSON): a bar that is missing from a complete span does not exist. A file is
written beside the folder and renamed over its predecessor, so that whoever reads, and whatever kills the writer, rows
and spans are those of one moment. Writers take turns by a lock of the operating system, which a process that dies gives
back; readers need none. Nothing but Parquet lies in the folder: it can be read whole.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from ccxtbt import _bars
from ccxtbt.errors import DataError
from ccxtbt.market.spans import Spans
from ccxtbt.market.timeframes import HOUR_MS, MINUTE_MS, Timeframe

logger = logging.getLogger(__name__)

Columns = tuple[NDArray[np.int64], NDArray[np.float64]]

NAMES = ("open", "high", "low", "close", "volume")
KEY = b"ccxtbt"
VERSION = 1
# Another process writes a file in well under a second.
LOCK_S = 10.0
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)


class Held(NamedTuple):
    """What the archive has of a span.

    Attributes
    ----------
    columns : tuple
        ts_ms int64[n] and ohlcv float64[5, n].
    complete : Spans
        Where nothing is missing.
    """

    columns: Columns
    complete: Spans


class Archive:
    """The bars of all exchanges under one folder.

    Parameters
    ----------
    root : path or None
        None: the user's cache folder.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root).expanduser() if root is not None else platformdirs.user_cache_path("ccxtbt") / "bars"

    def __repr__(self) -> str:
        return f"Archive({str(self.root)!r})"

    def shelf(
        self,
        source: Sequence[str],
        symbol: str,
        timeframe: Timeframe,
        params: Mapping[str, Any] | None = None,
        extra: Sequence[str] = (),
    ) -> Shelf:
        """Return the place of one market's bars.

        Parameters
        ----------
        source : sequence of str
            The exchange, then what else makes its bars other ones: its test network, a gateway. Empty ones are
            left out.
        symbol : str
            ccxt's unified symbol.
        timeframe : Timeframe
        params : mapping or None
            Extra parameters of the request, such as ``{'price': 'mark'}``: these are other bars, too.
        extra : sequence of str
            Columns behind those of all bars, such as ``'quote_volume'``.
        """
        exchange = "+".join(_encoded(part) for part in source if part)
        # File systems that take large and small letters for the same must not mix up minutes and months.
        frame = f"{timeframe.amount}{'mo' if timeframe.unit == 'M' else timeframe.unit}"
        words = [frame, urlencode(sorted((params or {}).items())), *extra]
        folder = self.root / exchange / _encoded_symbol(symbol) / "+".join(word for word in words if word)
        return Shelf(
            folder, {"exchange": source[0], "symbol": symbol, "timeframe": timeframe.text}, _stretch(timeframe), extra
        )


def _encoded(text: str) -> str:
    return quote(text, safe="")


def _encoded_symbol(symbol: str) -> str:
    """Return a symbol as a folder's name: '/' becomes '_', and what a file system may not keep apart is escaped."""
    kept = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
    return "".join("_" if c == "/" else c if c in kept else "".join(f"%{b:02X}" for b in c.encode()) for c in symbol)


def _stretch(timeframe: Timeframe) -> str:
    """Return the name of the file of a day, as `strftime` writes it."""
    if timeframe.nominal_ms < MINUTE_MS:
        return "%Y-%m-%d"
    return "%Y-%m" if timeframe.nominal_ms < HOUR_MS else "%Y"


class Shelf:
    """The files of one market and timeframe. Its methods block: call them off the event loop.

    Parameters
    ----------
    folder : Path
        Where they lie; made when something is kept.
    what : dict
        Exchange, symbol and timeframe, as written into each file.
    stretch : str
        Name of the file of a moment, as `strftime` writes it.
    extra : sequence of str
        Columns behind the first six; rows behind the five in all that is put in and read.
    """

    def __init__(self, folder: Path, what: Mapping[str, str], stretch: str, extra: Sequence[str] = ()) -> None:
        self.folder = folder
        self._what = dict(what)
        self._stretch = stretch
        self._names = (*NAMES, *extra)
        self._schema = pa.schema([("ts_ms", pa.int64()), *((name, pa.float64()) for name in self._names)])

    def read(self, start_ms: int, end_ms: int) -> tuple[Held, list[str]]:
        """Return what is kept of a span, and what is to be told of files that are damaged.

        A damaged file is set aside, and its bars count as missing.
        """
        held, told = [], []
        complete = Spans()
        for path, *_ in self._files(start_ms, end_ms):
            found, damage = self._load(path)
            if damage:
                told.append(self._set_aside(path))
            if found is not None:
                held.append(found.columns)
                for span in found.complete.within(start_ms, end_ms):
                    complete.add(*span)
        return Held(_cut(self._joined(held), start_ms, end_ms), complete), [sentence for sentence in told if sentence]

    def add(self, columns: Columns, complete: Spans) -> None:
        """Keep bars; only those within `complete` are.

        Parameters
        ----------
        columns : tuple
            ts_ms int64[n], strictly increasing, and ohlcv float64[5, n]; none of them forming.
        complete : Spans
            Where nothing is missing from `columns`.

        Raises
        ------
        OSError
            It cannot be written: no room, no right, or another process keeps the lock.
        """
        spans = list(complete)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            for path, first_ms, last_ms in self._files(spans[0][0], spans[-1][1]) if spans else ():
                fresh = Spans(complete.within(first_ms, last_ms))
                if fresh:
                    self._write(path, [_cut(columns, *span) for span in fresh], fresh)

    def _alone(self) -> FileLock:
        return FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=LOCK_S)

    def _files(self, start_ms: int, end_ms: int) -> list[tuple[Path, int, int]]:
        """Return the files of a span, each with the beginning and the end of its stretch."""
        files = []
        at_ms = start_ms
        while at_ms < end_ms:
            moment = _EPOCH + at_ms * _MS
            first = moment.replace(
                month=moment.month if "%m" in self._stretch else 1,
                day=moment.day if "%d" in self._stretch else 1,
                hour=0,
                minute=0,
                second=0,
                microsecond=0,
            )
            if "%d" in self._stretch:
                after = first + dt.timedelta(days=1)
            else:
                later = first + dt.timedelta(days=32 if "%m" in self._stretch else 370)
                after = later.replace(day=1, month=later.month if "%m" in self._stretch else 1)
            first_ms, at_ms = (first - _EPOCH) // _MS, (after - _EPOCH) // _MS
            files.append((self.folder / f"{first.strftime(self._stretch)}.parquet", first_ms, at_ms))
        return files

    def _load(self, path: Path) -> tuple[Held | None, bool]:
        """Return what a file holds, and whether it is damaged."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None, False
        try:
            return self._parse(data), False
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            logger.debug("%s cannot be read: %r", path, error)
            return None, True

    def _parse(self, data: bytes) -> Held:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True, use_threads=False)
        told = json.loads((table.schema.metadata or {})[KEY])
        if told["version"] != VERSION or any(told[name] != value for name, value in self._what.items()):
            raise DataError(f"It holds {told}, not version {VERSION} of {self._what}.")
        if table.schema.remove_metadata() != self._schema:
            raise DataError(f"Its columns are {table.schema.names}.")
        ts_ms = table.column("ts_ms").to_numpy()
        ohlcv = np.empty((len(self._names), len(ts_ms)))
        for row, name in enumerate(self._names):
            ohlcv[row] = table.column(name).to_numpy()
        if (ts_ms[1:] <= ts_ms[:-1]).any():
            raise DataError("Its bars are not in order.")
        return Held((ts_ms, ohlcv), Spans((start_ms, end_ms) for start_ms, end_ms in told["complete"]))

    def _write(self, path: Path, sources: list[Columns], fresh: Spans) -> None:
        held, damage = self._load(path)
        if damage:
            self._move_aside(path)
        complete = Spans(fresh)
        if held is not None:
            sources.insert(0, held.columns)
            for span in held.complete:
                complete.add(*span)
        ts_ms, ohlcv = self._joined(sources)
        told = {"version": VERSION, **self._what, "complete": list(complete)}
        table = pa.table([ts_ms, *ohlcv], schema=self._schema.with_metadata({KEY: json.dumps(told)}))
        beside = self.folder.with_name(f".{self.folder.name}.tmp")
        with beside.open("wb") as file:
            # LZ4 is read nearly twice as fast as Zstandard, for files four tenths larger.
            pq.write_table(table, file, compression="lz4", use_dictionary=False, write_page_checksum=True)
            file.flush()
            # Before the name points at it, also where the power fails.
            os.fsync(file.fileno())
        beside.replace(path)

    def _joined(self, sources: Sequence[Columns]) -> Columns:
        """Merge columns by time; of a bar that is in two the later one's."""
        kept = [source for source in sources if len(source[0])]
        if not kept:
            return np.empty(0, np.int64), np.empty((len(self._names), 0))
        if all(before[0][-1] < after[0][0] for before, after in itertools.pairwise(kept)):
            return np.concatenate([ts_ms for ts_ms, _ in kept]), np.concatenate([rows for _, rows in kept], axis=1)
        merged = _bars.merge([(ts_ms, rows[: len(NAMES)]) for ts_ms, rows in kept])
        joined = np.empty((len(self._names), len(merged.ts_ms)))
        joined[: len(NAMES)] = merged.ohlcv
        for ts_ms, rows in kept:
            joined[len(NAMES) :, merged.ts_ms.searchsorted(ts_ms)] = rows[len(NAMES) :]
        return merged.ts_ms, joined

    def _set_aside(self, path: Path) -> str:
        """Rename a damaged file, unless another process has mended it meanwhile; return what is to be told."""
        with self._alone():
            _, damage = self._load(path)
            return self._move_aside(path) if damage else ""

    def _move_aside(self, path: Path) -> str:
        folder = self.folder.with_name(f"{self.folder.name}.damaged")
        folder.mkdir(exist_ok=True)
        aside = next(
            place for number in itertools.count(1) if not (place := folder / f"{path.stem}.{number}.parquet").exists()
        )
        path.replace(aside)
        sentence = f"{path} is damaged: it was set aside as {aside}, and its bars are fetched again."
        logger.warning("%s", sentence)
        return sentence


def _cut(columns: Columns, start_ms: int, end_ms: int) -> Columns:
    ts_ms, ohlcv = columns
    low, high = ts_ms.searchsorted([start_ms, end_ms])
    return ts_ms[low:high], np.ascontiguousarray(ohlcv[:, low:high])

from collections.abc import Iterable
from typing import Literal, NamedTuple, Self, TypeAlias, final

import numpy as np
import numpy.typing as npt

from ccxtbt.market.timeframes import Timeframe

_Times: TypeAlias = npt.NDArray[np.int64]
_Values: TypeAlias = npt.NDArray[np.float64]
_Columns: TypeAlias = tuple[_Times, _Values]
_Source: TypeAlias = _Columns | tuple[_Times, _Values, npt.NDArray[np.uint8] | int]
# ts_ms, open, high, low, close, volume
_Bar: TypeAlias = tuple[int, float, float, float, float, float]
# the same and the origin, or the end of a tick bar
_LongBar: TypeAlias = tuple[int, float, float, float, float, float, int]

class Merged(NamedTuple):
    ts_ms: _Times
    ohlcv: _Values
    origin: npt.NDArray[np.uint8]
    corrected_ms: _Times
    repeats: int

class Resampled(NamedTuple):
    ts_ms: _Times
    ohlcv: _Values
    origin: npt.NDArray[np.uint8]
    counts: _Times
    complete: npt.NDArray[np.bool_]

def merge(
    sources: Iterable[_Source],
    timeframe: str | Timeframe | None = None,
    *,
    keep: Literal["last", "first"] = "last",
    gaps: Literal["none", "flat", "raise"] = "none",
    now_ms: int | None = None,
    until_ms: int | None = None,
) -> Merged: ...
def drop_forming(ts_ms: _Times, ohlcv: _Values, timeframe: str | Timeframe, now_ms: int) -> _Columns: ...
def resample(
    ts_ms: _Times,
    ohlcv: _Values,
    timeframe: str | Timeframe,
    to: str | Timeframe,
    origin: npt.NDArray[np.uint8] | int = 0,
) -> Resampled: ...
def find_gaps(ts_ms: _Times, timeframe: str | Timeframe) -> _Times: ...
def bars_from_trades(ts_ms: _Times, price: _Values, amount: _Values, timeframe: str | Timeframe) -> _Columns: ...
def bars_from_trade_dicts(trades: list[dict[str, object]], timeframe: str | Timeframe) -> _Columns: ...

@final
class TradeBars:
    late: int
    skipped: int
    def __new__(cls, timeframe: str | Timeframe, since_ms: int | None = None) -> Self: ...
    def add(self, ts_ms: int, price: float, amount: float) -> _Bar | None: ...
    def feed(self, ts_ms: _Times, price: _Values, amount: _Values) -> _Columns: ...
    def feed_dicts(self, trades: list[dict[str, object]]) -> _Columns: ...
    def close_until(self, now_ms: int) -> _Columns: ...
    def forming(self) -> _Bar | None: ...

@final
class TickBars:
    skipped: int
    def __new__(cls, trades_per_bar: int) -> Self: ...
    def add(self, ts_ms: int, price: float, amount: float) -> _LongBar | None: ...
    def feed(self, ts_ms: _Times, price: _Values, amount: _Values) -> tuple[_Times, _Values, _Times]: ...
    def forming(self) -> _Bar | None: ...

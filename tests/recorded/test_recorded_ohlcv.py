"""The bars that ccxt's sources quote of each exchange, served to its real class: our columns are ccxt's own result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import ccxt
import ccxt.async_support
import numpy as np

from ccxtbt._ohlcv import rows_to_columns
from ccxtbt.exchange.adapter import redirect
from ccxtbt.exchange.exchanges import BARS_BY_CCXT, BARS_FAST
from recording import recorded
from serving import KEYS, OPTIONS, Asked, exchange_at, market_of, serving

# Where ccxt quotes the rows without what is around them, or one of them.
AROUND: dict[str, Callable[[Any], Any]] = {
    "cex": lambda row: {"ok": "ok", "data": [row]},
    "hibachi": lambda rows: {"klines": rows},
    "lbank": lambda rows: {"result": "true", "data": rows},
    "onetrading": lambda rows: {"candlesticks": rows},
    # Of contracts one row, of spot all of them.
    "poloniex": lambda rows: rows if isinstance(rows[0], list) else {"code": 200, "data": [rows]},
}
# Where the answer names the market, or its id is a number.
MARKETS = {
    "alpaca": {"id": "BTC/USD"},
    "kraken": {"id": "XETHXXBT"},
    "mudrex": {"baseId": "BTC"},
    "nado": {"id": "1"},
}
PARAMS = {"cex": {"dataType": "bestAsk"}, "alpaca": {"loc": "us"}}
# These give the last hours alone, unless they are asked for bars of the quoted time.
SINCE_MS = {"alpaca": 1_658_379_600_000, "bitbank": 1_591_488_000_000, "lbank": 1_482_311_400_000}
# An answer with comments in it is no JSON.
UNREADABLE = {"p2b"}
# Quoted of the unified account, which is not what is asked here; or of the latest bar alone.
OTHERS = {("kucoin", "fetch_utaohlcv", 0), ("alpaca", "fetch_ohlcv", 1)}


OUTCOMES = (True, False)


def quoted() -> list[tuple[str, str]]:
    """Every answer that ccxt quotes in a method that fetches bars, by exchange."""
    found = []
    for file in sorted(recorded("ccxt_samples/rest").glob("*.json")):
        for method, samples in json.loads(file.read_text()).items():
            if "ohlcv" not in method or method == "parse_ohlcv" or file.stem in UNREADABLE:
                continue
            for number, sample in enumerate(samples):
                if (file.stem, method, number) not in OTHERS:
                    found.append((file.stem, json.dumps(AROUND.get(file.stem, lambda told: told)(sample["json"]))))
    return found


def plain_at(name: str, address: str, market: dict[str, Any]) -> Any:
    """ccxt's own class, with nothing of ours."""
    exchange = getattr(ccxt.async_support, name)({**KEYS, "enableRateLimit": False, "options": OPTIONS})
    exchange.urls["api"] = redirect(exchange.urls["api"], address)
    exchange.set_markets([market])
    return exchange


def test_columns_are_what_ccxt_makes_of_every_quoted_answer() -> None:
    answers = quoted()
    fast: set[str] = set()
    slow: set[str] = set()

    def answer(asked: Asked) -> str:
        return answers[int(asked.target.split("/")[1])][1]

    async def compare(address: str, number: int, kind: str) -> bool:
        """Hold our columns against ccxt's rows; returns whether the answer is one of this type of market."""
        name, _ = answers[number]
        ours = exchange_at(name, f"{address}/{number}", kind)
        market = {**market_of(ours, kind), **MARKETS.get(name, {})}
        ours.set_markets([market])
        theirs = plain_at(name, f"{address}/{number}", market)
        request = (market["symbol"], next(iter(ours.timeframes)), SINCE_MS.get(name), None, PARAMS.get(name, {}))
        try:
            rows = await theirs.fetch_ohlcv(*request)
            if not rows or rows[0][0] is None:
                return False
            ts_ms, ohlcv = rows_to_columns(rows)
            for _ in range(3):
                found_ms, found = await ours.fetch_columns(*request)
                np.testing.assert_array_equal(found_ms, ts_ms, name)
                np.testing.assert_array_equal(found, ohlcv, name)
            counts = ours.ccxtbt_counts
            assert counts.disproved == 0, name
            (fast if counts.fast == 2 else slow).add(name)
        except ccxt.NotSupported:
            return False
        else:
            return True
        finally:
            await ours.close()
            await theirs.close()

    async def main() -> None:
        async with serving(answer) as address:
            has = [getattr(ccxt, name)().has for name, _ in answers]
            asked = [(i, kind) for i in range(len(answers)) for kind in ("spot", "swap") if has[i].get(kind)]
            # All of them end before one that failed is told, and close what they opened.
            ended = await asyncio.gather(*(compare(address, *each) for each in asked), return_exceptions=True)
        failed = [
            (answers[i][0], kind, end) for (i, kind), end in zip(asked, ended, strict=True) if end not in OUTCOMES
        ]
        assert not failed
        read = {i for (i, _), fits in zip(asked, ended, strict=True) if fits}
        assert not [answers[i] for i in range(len(answers)) if i not in read]

    asyncio.run(main())
    assert fast == BARS_FAST
    # Of some, one kind of answer has no layout, and another has.
    assert slow - fast == BARS_BY_CCXT

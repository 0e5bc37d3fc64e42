"""`fetch_columns` through ccxt's real asynchronous classes, over loopback HTTP, against ccxt's own `fetch_ohlcv`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt
import ccxt.async_support
import numpy as np
import pytest
from aiohttp import web

from ccxtbt._ohlcv import rows_to_columns
from ccxtbt.errors import DataError
from ccxtbt.exchange.adapter import redirect
from ccxtbt.exchange.columns import ColumnsMixin, Counts, within
from ccxtbt.exchange.exchanges import TABLE
from ccxtbt.exchange.facts import Extra
from reference import answers

Answer = Callable[[web.Request], str | web.Response]

MARKETS: dict[str, list[dict[str, Any]]] = {
    "binance": [{"name": "BTCUSDT"}, {"name": "ETHUSDT", "base": "ETH"}],
    "okx": [{"name": "BTC-USDT"}],
    "bybit": [{"name": "BTCUSDT"}],
    "kraken": [{"name": "XXBTZUSD"}],
    "deribit": [{"name": "BTC_USDT"}],
    "bitopro": [{"name": "btc_usdt"}],
}
WRITTEN = {name: getattr(answers, name) for name in ("binance", "okx", "bybit", "kraken", "deribit")}
EXCHANGES = sorted(WRITTEN)
BARS = answers.candles(40)
SINCE_MS = BARS[0].ts_ms
PLAIN = ccxt.Exchange()


def market(name: str, base: str = "BTC", **facts: Any) -> dict[str, Any]:
    """The least that ccxt wants to know of a market."""
    spot = {"type": "spot", "spot": True, "swap": False, "contract": False, "inverse": None, "linear": None}
    known = {"id": name, "symbol": f"{base}/USDT", "base": base, "quote": "USDT", "baseId": base, "quoteId": "USDT"}
    return {**known, **spot, "active": True, "precision": {}, "limits": {}, "info": {}, **facts}


def exchange_of(name: str, address: str, *parents: type, markets: list[dict[str, Any]] | None = None) -> Any:
    """ccxt's class with the mixin before it, led to a local server."""
    base = getattr(ccxt.async_support, name)
    exchange = type(name, (*parents, ColumnsMixin, base), {})({"enableRateLimit": False})
    exchange.urls["api"] = redirect(exchange.urls["api"], address)
    exchange.set_markets([market(**facts) for facts in markets or MARKETS[name]])
    return exchange


def run(answer: Answer, use: Callable[[str], Awaitable[Any]]) -> Any:
    """Serve an answer at every address, and run what uses it."""

    async def main() -> Any:
        async def handle(request: web.Request) -> web.Response:
            given = answer(request)
            return (
                given if isinstance(given, web.Response) else web.Response(text=given, content_type="application/json")
            )

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            return await use(f"http://127.0.0.1:{port}")
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def same(one: Any, other: Any) -> bool:
    """The same columns, bit for bit."""
    (ts_ms, ohlcv), (other_ms, other_ohlcv) = one, other
    assert ohlcv.flags.c_contiguous
    assert ts_ms.dtype == np.int64
    return ts_ms.tolist() == other_ms.tolist() and ohlcv.tobytes() == other_ohlcv.tobytes()


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_second_answer_is_read_fast_and_both_are_as_ccxt_reads_them(name: str) -> None:
    requests = [
        (None, None),
        (None, 7),
        (SINCE_MS, 100),
        (SINCE_MS, 7),
        (SINCE_MS + 1, None),
        (SINCE_MS + 600_000, 7),
        (SINCE_MS + 10**9, 7),
        (0, 100),
    ]

    async def use(address: str) -> None:
        exchange = exchange_of(name, address)
        try:
            for count, (since, limit) in enumerate(requests):
                wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m", since, limit))
                assert same(await exchange.fetch_columns("BTC/USDT", "1m", since, limit), wanted)
                assert exchange.ccxtbt_counts == Counts(fast=count, ccxt=1)
        finally:
            await exchange.close()

    run(lambda request: WRITTEN[name](BARS), use)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 3, 99])
@pytest.mark.parametrize("since", [None, -5, 0, 1, 20, 21, 40, 41])
@pytest.mark.parametrize("times", [[], [0], [0, 10, 20, 20, 30, 40], [10, 20, 30]])
def test_bars_are_left_out_as_ccxt_leaves_them_out(
    times: list[int], since: int | None, limit: int | None, tail: bool
) -> None:
    bars = [[ms, *(float(10 * i + j) for j in range(5))] for i, ms in enumerate(times)]
    wanted = rows_to_columns(PLAIN.filter_by_since_limit(bars, since, limit, 0, tail))
    assert same(within(rows_to_columns(bars), since, limit, tail), wanted)


@pytest.mark.parametrize("name", EXCHANGES)
def test_few_bars(name: str) -> None:
    sent = [BARS, *(BARS[:count] for count in (0, 0, 1, 1, 2, 2))]

    async def use(address: str) -> None:
        exchange = exchange_of(name, address)
        try:
            await exchange.fetch_columns("BTC/USDT", "1m")
            for count in range(3):
                wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m"))
                assert same(await exchange.fetch_columns("BTC/USDT", "1m"), wanted)
                assert len(wanted[0]) == count
                assert exchange.ccxtbt_counts.fast == count + 1
        finally:
            await exchange.close()

    run(lambda request: WRITTEN[name](sent.pop(0)), use)


@pytest.mark.parametrize(
    ("name", "facts", "params"),
    [
        ("binance", {"inverse": True, "contract": True, "spot": False, "swap": True, "type": "swap"}, {}),
        ("bybit", {"inverse": True, "contract": True, "spot": False, "swap": True, "type": "swap"}, {}),
        ("okx", {"inverse": False, "contract": True, "spot": False, "swap": True, "type": "swap"}, {}),
        ("okx", {"contract": True, "spot": False, "swap": True, "type": "swap"}, {"price": "mark"}),
    ],
)
def test_the_volume_of_contracts_stands_elsewhere(name: str, facts: dict[str, Any], params: dict[str, Any]) -> None:
    async def use(address: str) -> None:
        exchange = exchange_of(name, address, markets=[{**MARKETS[name][0], **facts}])
        try:
            wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m", None, None, params))
            for _ in range(3):
                assert same(await exchange.fetch_columns("BTC/USDT", "1m", None, None, params), wanted)
            assert exchange.ccxtbt_counts == Counts(fast=2, ccxt=1)
        finally:
            await exchange.close()

    run(lambda request: WRITTEN[name](BARS), use)


def test_calls_at_the_same_time_do_not_mix() -> None:
    series = {"BTCUSDT": answers.candles(40, seed=2), "ETHUSDT": answers.candles(30, seed=3)}

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        try:
            wanted = {}
            for symbol in ("BTC/USDT", "ETH/USDT"):
                wanted[symbol] = rows_to_columns(await exchange.fetch_ohlcv(symbol, "1m"))
            for _ in range(3):
                symbols = ["BTC/USDT", "ETH/USDT"] * 5
                plain = exchange.fetch_ohlcv("BTC/USDT", "1m")
                found = await asyncio.gather(*(exchange.fetch_columns(symbol, "1m") for symbol in symbols), plain)
                assert len(found.pop()) == 40
                assert all(same(columns, wanted[symbol]) for symbol, columns in zip(symbols, found, strict=True))
            assert exchange.ccxtbt_counts == Counts(fast=20, ccxt=10)
        finally:
            await exchange.close()

    run(lambda request: answers.binance(series[request.query["symbol"]]), use)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (429, '{"code":-1003,"msg":"Too many requests"}', ccxt.DDoSProtection),
        (418, '{"code":-1003,"msg":"banned"}', ccxt.DDoSProtection),
        (400, '{"code":-1121,"msg":"Invalid symbol."}', ccxt.BadSymbol),
        (503, "<html>upstream</html>", ccxt.ExchangeNotAvailable),
        (200, "<html>maintenance</html>", DataError),
        (200, '[[1700000040000,"1","2","1",null,"1",0,"0",0,"0","0","0"]]', DataError),
        (200, '[[1700000040000,"1","2","1","NaN","1",0,"0",0,"0","0","0"]]', DataError),
    ],
)
def test_errors_are_those_of_ccxt_before_and_after_the_layout_is_learnt(
    status: int, body: str, error: type[Exception]
) -> None:
    failing = [True, False, True]

    def answer(request: web.Request) -> web.Response:
        if failing.pop(0):
            return web.Response(status=status, text=body)
        return web.Response(text=answers.binance(BARS))

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        try:
            with pytest.raises(error):
                await exchange.fetch_columns("BTC/USDT", "1m")
            await exchange.fetch_columns("BTC/USDT", "1m")
            with pytest.raises(error):
                await exchange.fetch_columns("BTC/USDT", "1m")
            assert exchange.ccxtbt_counts.fast == 0
        finally:
            await exchange.close()

    run(answer, use)


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_is_no_json_is_no_answer(name: str) -> None:
    """ccxt takes it for an answer without bars: a page would be missing, and nobody the wiser."""
    body = WRITTEN[name](BARS)
    bad = ["", " ", "<html>maintenance</html>", body[:-1], body[: len(body) // 2], "[", "OK"]
    sent = [bad[0], body, *bad]

    async def use(address: str) -> None:
        exchange = exchange_of(name, address)
        try:
            with pytest.raises(DataError):
                await exchange.fetch_columns("BTC/USDT", "1m")
            await exchange.fetch_columns("BTC/USDT", "1m")
            for _ in bad:
                with pytest.raises(DataError):
                    await exchange.fetch_columns("BTC/USDT", "1m")
            assert not sent
        finally:
            await exchange.close()

    run(lambda request: sent.pop(0), use)


def test_an_answer_written_in_another_way_is_read_by_ccxt_and_learnt_anew() -> None:
    lists = answers.binance(BARS)
    names = ("openTime", "open", "high", "low", "close", "volume")
    dicts = json.dumps([dict(zip(names, row, strict=False)) for row in json.loads(lists)])
    sent = [lists, lists, dicts, dicts, lists]

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        try:
            wanted = await exchange.fetch_columns("BTC/USDT", "1m")
            counts = []
            for _ in range(4):
                assert same(await exchange.fetch_columns("BTC/USDT", "1m"), wanted)
                counts.append((exchange.ccxtbt_counts.fast, exchange.ccxtbt_counts.ccxt))
            assert counts == [(1, 1), (1, 2), (2, 2), (2, 3)]
            assert exchange.ccxtbt_counts.disproved == 0
        finally:
            await exchange.close()

    run(lambda request: sent.pop(0), use)


def extra_of(name: str, exchange: Any) -> Extra:
    """All extra values that an exchange gives."""
    names = tuple(TABLE[name].extras[0].places)
    extra = TABLE[name].find_extra(names, name, exchange.market("BTC/USDT"))
    assert extra is not None
    return extra


@pytest.mark.parametrize("name", ["binance", "bybit", "kraken", "okx"])
def test_extra_values_are_read_from_the_first_answer_on(name: str) -> None:
    tellable = {
        "trades": [float(bar.trades) for bar in BARS],
        "quote_volume": [float(bar.quote_volume) for bar in BARS],
        "taker_buy_volume": [float(f"{float(bar.volume) / 2:.5f}") for bar in BARS],
    }

    async def use(address: str) -> None:
        exchange = exchange_of(name, address)
        try:
            extra = extra_of(name, exchange)
            for since, limit, bars in ((None, None, slice(40)), (None, 7, slice(33, 40)), (SINCE_MS, 7, slice(7))):
                plain = await exchange.fetch_columns("BTC/USDT", "1m", since, limit)
                ts_ms, rows = await exchange.fetch_columns("BTC/USDT", "1m", since, limit, extra=extra)
                assert same((ts_ms, np.ascontiguousarray(rows[:5])), plain)
                for row, asked in zip(rows[5:], extra.names, strict=True):
                    assert row.tolist() == tellable[asked][bars]
            # ccxt reads the first answer of another timeframe.
            _, rows = await exchange.fetch_columns("BTC/USDT", "5m", None, None, extra=extra)
            assert rows[5].tolist() == tellable[extra.names[0]]
            assert exchange.ccxtbt_counts.ccxt == 2
        finally:
            await exchange.close()

    run(lambda request: WRITTEN[name](BARS), use)


def test_extra_values_that_nothing_proves_are_nan(caplog: pytest.LogCaptureFixture) -> None:
    lists = answers.binance(BARS)
    names = ("openTime", "open", "high", "low", "close", "volume")
    dicts = json.dumps([dict(zip(names, row, strict=False)) for row in json.loads(lists)])
    short = json.dumps([row[:8] for row in json.loads(lists)])
    none = json.dumps([[*row[:8], None, *row[9:]] for row in json.loads(lists)])
    sent = [lists, dicts, short, none, lists]

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        try:
            extra = extra_of("binance", exchange)
            wanted = await exchange.fetch_columns("BTC/USDT", "1m", extra=extra)
            assert not np.isnan(wanted[1]).any()
            for _ in range(3):
                ts_ms, rows = await exchange.fetch_columns("BTC/USDT", "1m", extra=extra)
                assert same((ts_ms, np.ascontiguousarray(rows[:5])), (wanted[0], np.ascontiguousarray(wanted[1][:5])))
                assert np.isnan(rows[5:]).all()
            assert same(await exchange.fetch_columns("BTC/USDT", "1m", extra=extra), wanted)
        finally:
            await exchange.close()

    run(lambda request: sent.pop(0), use)
    assert caplog.text.count("come without trades, quote_volume, taker_buy_volume") == 1


class Swapped:
    """ccxt reads rows of this volume differently: high and low change places."""

    def parse_ohlcv(self, ohlcv: Any, market: Any = None) -> Any:
        bar = super().parse_ohlcv(ohlcv, market)  # type: ignore[misc]  # a mixin
        return [bar[0], bar[1], bar[3], bar[2], *bar[4:]] if ohlcv[5] == "7.00000000" else bar


@pytest.mark.parametrize("at", [0, -1])
def test_where_ccxt_reads_the_first_or_last_row_differently_its_reading_is_used(at: int) -> None:
    rows = json.loads(answers.binance(BARS))
    usual = json.dumps(rows)
    rows[at][5] = "7.00000000"
    sent = [usual, json.dumps(rows)]

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address, Swapped)
        try:
            ts_ms, ohlcv = await exchange.fetch_columns("BTC/USDT", "1m")
            found_ms, found = await exchange.fetch_columns("BTC/USDT", "1m")
            assert found_ms.tolist() == ts_ms.tolist()
            assert found[1:3, at].tolist() == ohlcv[2:0:-1, at].tolist()
            assert exchange.ccxtbt_counts == Counts(fast=0, ccxt=2, disproved=1)
        finally:
            await exchange.close()

    run(lambda request: sent.pop(0), use)


class Shifted:
    """ccxt's code moves the bars' times after they are parsed, of a short list only."""

    async def fetch_ohlcv(self, *args: Any, **kwargs: Any) -> Any:
        bars = await super().fetch_ohlcv(*args, **kwargs)  # type: ignore[misc]  # a mixin
        if len(bars) == 2:
            for bar in bars:
                bar[0] -= 60_000
        return bars


class Joined:
    """ccxt's code asks twice and joins the answers."""

    async def fetch_ohlcv(self, *args: Any, **kwargs: Any) -> Any:
        bars = await super().fetch_ohlcv(*args, **kwargs)  # type: ignore[misc]  # a mixin
        return bars + await super().fetch_ohlcv(*args, **kwargs)  # type: ignore[misc]  # a mixin


class Copied:
    """ccxt's code hands a copy of the rows to its parser once they are few."""

    def parse_ohlcvs(self, ohlcvs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().parse_ohlcvs(list(ohlcvs) if len(ohlcvs) == 2 else ohlcvs, *args, **kwargs)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("oddity", "counts"),
    [(Shifted, Counts(0, 3, 1)), (Joined, Counts(0, 3, 0)), (Copied, Counts(0, 3, 1))],
)
def test_bars_that_ccxt_changes_afterwards_are_left_to_it(oddity: type, counts: Counts) -> None:
    asked = []

    def answer(request: web.Request) -> str:
        asked.append(1)
        return answers.binance(BARS)

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address, oddity)
        try:
            wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m"))
            asked.clear()
            for _ in range(3):
                assert same(await exchange.fetch_columns("BTC/USDT", "1m"), wanted)
            assert exchange.ccxtbt_counts == counts
            assert len(asked) == (6 if oddity is Joined else 3 + counts.disproved)
        finally:
            await exchange.close()

    run(answer, use)


def test_gaps_that_ccxt_fills_are_never_lost() -> None:
    """bitopro's `fetch_ohlcv` inserts bars after parsing: its columns are always made of ccxt's bars."""
    rows = [
        {"timestamp": bar.ts_ms, **dict(zip(("open", "high", "low", "close"), bar.prices, strict=True)), "volume": "1"}
        for bar in BARS[:10] + BARS[15:]
    ]

    async def use(address: str) -> None:
        exchange = exchange_of("bitopro", address)
        try:
            wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m", SINCE_MS, 40))
            for _ in range(3):
                assert same(await exchange.fetch_columns("BTC/USDT", "1m", SINCE_MS, 40), wanted)
            assert exchange.ccxtbt_counts.fast == 0
        finally:
            await exchange.close()

    run(lambda request: json.dumps({"data": rows}), use)


def test_pages_that_ccxt_gathers_are_as_ccxt_gathers_them() -> None:
    bars = answers.candles(3000)

    def answer(request: web.Request) -> str:
        first, count = int(request.query.get("startTime", 0)), int(request.query.get("limit", 500))
        return answers.binance([bar for bar in bars if bar.ts_ms >= first][:count])

    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        params = {"paginate": True, "until": bars[-1].ts_ms}
        try:
            await exchange.fetch_columns("BTC/USDT", "1m", SINCE_MS)
            wanted = rows_to_columns(await exchange.fetch_ohlcv("BTC/USDT", "1m", SINCE_MS, 3000, params))
            for _ in range(2):
                assert same(await exchange.fetch_columns("BTC/USDT", "1m", SINCE_MS, 3000, params), wanted)
            assert len(wanted[0]) > 1500
            assert exchange.ccxtbt_counts == Counts(fast=0, ccxt=3)
        finally:
            await exchange.close()

    run(answer, use)


def test_who_asks_ccxt_to_keep_the_answer_gets_it_whole() -> None:
    async def use(address: str) -> None:
        exchange = exchange_of("binance", address)
        exchange.enableLastJsonResponse = True
        try:
            for _ in range(3):
                await exchange.fetch_columns("BTC/USDT", "1m")
                assert len(exchange.last_json_response) == len(BARS)
        finally:
            await exchange.close()

    run(lambda request: answers.binance(BARS), use)


def test_markets_are_loaded_before_the_rows_are_awaited() -> None:
    """What else ccxt asks for meanwhile must not be taken for bars."""

    async def use(address: str) -> None:
        exchange = exchange_of("kraken", address)
        exchange.markets = None
        loaded = []

        async def load_markets(*args: Any, **kwargs: Any) -> Any:
            loaded.append(1)
            return exchange.set_markets([market(**facts) for facts in MARKETS["kraken"]])

        exchange.load_markets = load_markets
        try:
            await exchange.fetch_columns("BTC/USDT", "1m")
            assert loaded == [1]
        finally:
            await exchange.close()

    run(lambda request: answers.kraken(BARS), use)

"""The simulated USD-M futures exchange, through ccxt's own classes."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import ccxt
import ccxt.pro
import pytest

from ccxtbt.sim.funding import FUNDING_MS, next_funding_ms, rate_at
from ccxtbt.sim.server import START_MS, SimServer
from simulated import BTC, ETH, point

DAY_MS = 86_400_000
PERP = "BTC/USDT:USDT"


@pytest.fixture
def server(simulator) -> SimServer:
    return simulator(contracts=[BTC, ETH], history_ms=2 * DAY_MS)


@pytest.fixture
def usdm(server) -> ccxt.binanceusdm:
    exchange = point(ccxt.binanceusdm({"enableRateLimit": False}), server)
    exchange.load_markets()
    return exchange


class TestMarketData:
    def test_contracts_are_listed(self, usdm, server):
        assert sorted(usdm.markets) == [PERP, "ETH/USDT:USDT"]
        market = usdm.market(PERP)
        assert (market["swap"], market["linear"], market["settle"], market["contractSize"]) == (True, True, "USDT", 1)
        assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
        assert market["limits"]["cost"]["min"] == 5
        assert market["active"] is True
        assert {record.status for record in server.requests} == {200}

    def test_spot_and_contracts_stand_side_by_side(self, server):
        exchange = point(ccxt.binance({"enableRateLimit": False}), server)
        assert sorted(exchange.load_markets()) == ["BNB/USDT", "BTC/USDT", PERP, "ETH/USDT", "ETH/USDT:USDT"]

    def test_klines_are_the_contracts(self, usdm, server):
        market = server.contracts.markets["BTCUSDT"]
        end_ms = START_MS - 1
        rows = usdm.fetch_ohlcv(PERP, "1m", None, 1000, {"until": end_ms})
        truth = server.call(lambda: market.klines("1m", None, end_ms, 1000, now_ms=START_MS))
        assert len(usdm.fapipublic_get_klines({"symbol": "BTCUSDT", "interval": "1m", "limit": 2000})) == 1500
        assert rows == [[row[0], *(float(value) for value in row[1:6])] for row in truth]

    def test_mark_price_klines_have_no_volume(self, usdm):
        marks = usdm.fetch_mark_ohlcv(PERP, "1h", START_MS - DAY_MS, 5)
        lasts = usdm.fetch_ohlcv(PERP, "1h", START_MS - DAY_MS, 5)
        assert [row[:5] for row in marks] == [row[:5] for row in lasts]
        assert all(not row[5] for row in marks)

    def test_books_tickers_and_trades(self, usdm):
        book, ticker = usdm.fetch_order_book(PERP, 5), usdm.fetch_ticker(PERP)
        assert book["bids"][0][0] < book["asks"][0][0]
        assert ticker["last"] > 0
        assert len(usdm.fetch_tickers()) == 2
        assert len(usdm.fetch_trades(PERP, limit=10)) == 10
        assert usdm.fetch_last_prices([PERP])[PERP]["price"] > 0
        assert usdm.fetch_bids_asks([PERP])[PERP]["bid"] > 0

    def test_the_funding_rate_is_the_one_that_will_be_paid(self, usdm, server):
        rate = usdm.fetch_funding_rate(PERP)
        next_ms = next_funding_ms(server.clock.now_ms())
        assert (rate["fundingTimestamp"], rate["fundingRate"]) == (next_ms, float(rate_at("BTCUSDT", next_ms)))
        assert rate["markPrice"] > 0
        basis = Decimal(rate["info"]["markPrice"]) / Decimal(rate["info"]["indexPrice"]) - 1
        assert abs(basis - rate_at("BTCUSDT", next_ms)) < Decimal("1e-9")
        assert sorted(usdm.fetch_funding_rates()) == [PERP, "ETH/USDT:USDT"]
        assert usdm.fetch_funding_interval(PERP)["interval"] == "8h"
        assert usdm.fetch_mark_price(PERP)["markPrice"] == pytest.approx(rate["markPrice"], rel=0.01)

    def test_the_history_of_funding(self, usdm):
        rows = usdm.fetch_funding_rate_history(PERP, START_MS - 2 * DAY_MS)
        assert [row["timestamp"] for row in rows] == [
            START_MS - 2 * DAY_MS + FUNDING_MS * number for number in range(7)
        ]
        assert [row["fundingRate"] for row in rows] == [float(rate_at("BTCUSDT", row["timestamp"])) for row in rows]
        assert usdm.fetch_funding_rate_history(PERP, limit=3) == rows[-3:]

    def test_weights_are_the_futures_exchanges_own(self, usdm, server):
        used = int(usdm.last_response_headers["X-MBX-USED-WEIGHT-1M"])
        usdm.fetch_ohlcv(PERP, "1m", None, 1000)
        usdm.fetch_tickers()
        assert int(usdm.last_response_headers["X-MBX-USED-WEIGHT-1M"]) == used + 5 + 40
        assert server.call(lambda: server.usage.weight("127.0.0.1")) < used + 50


class TestStreams:
    def watch(self, server, what):
        async def main():
            exchange = point(ccxt.pro.binanceusdm({"enableRateLimit": False, "newUpdates": True}), server)
            try:
                await exchange.load_markets()
                return await asyncio.wait_for(what(exchange), 15)
            finally:
                await exchange.close()

        return asyncio.run(main())

    def test_mark_prices(self, server):
        ticker = self.watch(server, lambda exchange: exchange.watch_mark_price(PERP))
        assert (ticker["symbol"], ticker["info"]["e"]) == (PERP, "markPriceUpdate")
        assert ticker["markPrice"] > ticker["indexPrice"] > 0 or ticker["indexPrice"] >= ticker["markPrice"] > 0
        assert int(ticker["info"]["T"]) == next_funding_ms(server.clock.now_ms())
        both = self.watch(server, lambda exchange: exchange.watch_mark_prices())
        assert sorted(both) == [PERP, "ETH/USDT:USDT"]

    def test_bars_trades_tickers_and_books(self, server):
        bars = self.watch(server, lambda exchange: exchange.watch_ohlcv(PERP, "1m"))
        assert len(bars[-1]) == 6
        trades = self.watch(server, lambda exchange: exchange.watch_trades(PERP))
        assert trades[0]["symbol"] == PERP
        ticker = self.watch(server, lambda exchange: exchange.watch_ticker(PERP))
        assert ticker["symbol"] == PERP
        quotes = self.watch(server, lambda exchange: exchange.watch_bids_asks([PERP]))
        assert quotes[PERP]["bid"] < quotes[PERP]["ask"]

        async def books(exchange):
            for _ in range(5):
                book = await exchange.watch_order_book(PERP)
            return book

        book = self.watch(server, books)
        assert book["bids"][0][0] < book["asks"][0][0]

"""The simulated USD-M futures exchange, through ccxt's own classes."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import ccxt
import ccxt.pro
import pytest

from ccxtbt.sim.events import OrderEvent
from ccxtbt.sim.funding import FUNDING_MS, next_funding_ms, rate_at
from ccxtbt.sim.server import START_MS, SimServer
from simulated import BTC, ETH, point
from waiting import come_true, wait_until

DAY_MS = 86_400_000
PERP = "BTC/USDT:USDT"


@pytest.fixture
def server(simulator) -> SimServer:
    return simulator(contracts=[BTC, ETH], margin={"USDT": 10_000}, history_ms=2 * DAY_MS)


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


class TestTrading:
    def test_a_position_from_market_order_to_close(self, usdm, server):
        usdm.set_leverage(10, PERP)
        made = usdm.create_order(PERP, "market", "buy", 0.5)
        assert (made["status"], made["filled"]) == ("closed", 0.5)
        (position,) = usdm.fetch_positions([PERP])
        assert (position["side"], position["contracts"], position["marginMode"]) == ("long", 0.5, "cross")
        assert position["entryPrice"] == pytest.approx(made["average"])
        assert position["initialMargin"] == pytest.approx(position["notional"] / 10, rel=0.01)
        assert 0 < position["liquidationPrice"] < position["entryPrice"]
        trades = usdm.fetch_my_trades(PERP)
        assert sum(Decimal(str(trade["amount"])) for trade in trades) == Decimal("0.5")
        assert all(trade["fee"]["currency"] == "USDT" for trade in trades)
        balance = usdm.fetch_balance()
        assert balance["USDT"]["used"] == pytest.approx(position["initialMargin"], rel=0.01)
        closed = usdm.create_order(PERP, "market", "sell", 0.5, None, {"reduceOnly": True})
        assert (closed["status"], closed["reduceOnly"]) == ("closed", True)
        assert usdm.fetch_positions([PERP]) == []
        profit = sum(Decimal(trade["info"]["realizedPnl"]) for trade in usdm.fetch_my_trades(PERP))
        fees = sum(Decimal(trade["info"]["commission"]) for trade in usdm.fetch_my_trades(PERP))
        wallet = server.call(lambda: server.contracts.books.wallet(server.contracts.account("sim-key")))
        assert wallet == 10_000 + profit - fees
        assert usdm.fetch_balance()["USDT"]["total"] == float(wallet)
        ledger = usdm.fetch_ledger("USDT")
        assert sum(Decimal(entry["info"]["income"]) for entry in ledger) == profit - fees

    def test_a_resting_order_from_birth_to_cancellation(self, usdm):
        made = usdm.create_order(PERP, "limit", "buy", 0.01, 50_000, {"clientOrderId": "mine-1"})
        assert (made["status"], made["clientOrderId"], made["type"]) == ("open", "mine-1", "limit")
        assert usdm.fetch_open_orders(PERP)[0]["id"] == made["id"]
        assert usdm.fetch_order(None, PERP, {"clientOrderId": "mine-1"})["id"] == made["id"]
        assert usdm.cancel_order(made["id"], PERP)["status"] == "canceled"
        usdm.create_order(PERP, "limit", "buy", 0.01, 50_000, {"postOnly": True})
        assert usdm.fetch_open_orders(PERP)[0]["postOnly"] is True
        usdm.cancel_all_orders(PERP)
        assert usdm.fetch_open_orders(PERP) == []
        assert [order["status"] for order in usdm.fetch_orders(PERP)] == ["canceled", "canceled"]

    def test_an_order_can_be_good_till_a_date(self, usdm, server):
        until = {"timeInForce": "GTD", "goodTillDate": START_MS + 700_999}
        made = usdm.create_order(PERP, "limit", "buy", 0.01, 50_000, until)
        assert (made["status"], made["timeInForce"]) == ("open", "GTD")
        assert int(made["info"]["goodTillDate"]) == START_MS + 700_000
        events = server.call(lambda: server.contracts.advance(START_MS + 701_000))
        (report,) = [event for event in events if isinstance(event, OrderEvent)]
        assert (report.exec_type, report.status, report.ts_ms) == ("EXPIRED", "EXPIRED", START_MS + 700_000)
        assert usdm.fetch_order(made["id"], PERP)["status"] == "expired"

    def test_a_countdown_cancels_the_orders_of_its_contract_unless_it_is_set_again(self, simulator):
        server = simulator(contracts=[BTC, ETH], margin={"USDT": 10_000}, history_ms=DAY_MS, speed=20.0)
        usdm = point(ccxt.binanceusdm({"enableRateLimit": False, "options": {"recvWindow": 60_000}}), server)
        usdm.load_markets()
        low = ((PERP, 50_000), ("ETH/USDT:USDT", 2_500))
        made = [usdm.create_order(symbol, "limit", "buy", 0.01, price) for symbol, price in low]
        count_down, began_ms = usdm.fapiprivate_post_countdowncancelall, server.clock.now_ms()
        answer = count_down({"symbol": "BTCUSDT", "countdownTime": 20_000})
        assert answer == {"symbol": "BTCUSDT", "countdownTime": "20000"}
        # The last one counts, and none at all is one too.
        count_down({"symbol": "BTCUSDT", "countdownTime": 30_000})
        count_down({"symbol": "ETHUSDT", "countdownTime": 20_000})
        count_down({"symbol": "ETHUSDT", "countdownTime": 0})

        def status(order):
            found = usdm.fetch_order(order["id"], order["symbol"])
            return found["status"], found["lastUpdateTimestamp"] or found["timestamp"]

        while status(made[0])[0] == "open":
            assert server.clock.now_ms() < began_ms + 200_000
        told, ended_ms = status(made[0])
        assert told == "canceled"
        assert ended_ms >= began_ms + 30_000
        assert status(made[1])[0] == "open"
        with pytest.raises(ccxt.BadSymbol):
            count_down({"symbol": "XYZUSDT", "countdownTime": 2_000})

    @pytest.mark.parametrize(
        ("kind", "amount", "price", "params", "code"),
        [
            ("limit", 100, 50_000, {}, -2019),
            ("limit", 0.01, 50_000, {"reduceOnly": True}, -2022),
            ("limit", 0.00005, 50_000, {}, -4164),
            ("limit", 0.01, 90_000, {"postOnly": True}, -5022),
            ("market", 0.01, None, {"positionSide": "LONG"}, -4061),
            ("limit", 0.01, 50_000, {"timeInForce": "GTD", "goodTillDate": START_MS + 600_000}, -5040),
            ("limit", 0.01, 50_000, {"timeInForce": "GTD"}, -1102),
            ("limit", 0.01, 50_000, {"goodTillDate": START_MS + 700_000}, -1106),
        ],
    )
    def test_refusals(self, usdm, server, kind, amount, price, params, code):
        with pytest.raises(ccxt.BaseError):
            usdm.create_order(PERP, kind, "buy", amount, price, params)
        assert json.loads(usdm.last_http_response)["code"] == code
        assert server.call(lambda: list(server.contracts.orders)) == []

    @pytest.mark.parametrize(
        ("kind", "price", "params", "named"),
        [
            ("market", None, {"stopLossPrice": 50_000}, "STOP_MARKET"),
            ("limit", 49_000, {"stopLossPrice": 50_000}, "STOP"),
            ("market", None, {"takeProfitPrice": 80_000}, "TAKE_PROFIT_MARKET"),
            ("limit", 81_000, {"takeProfitPrice": 80_000}, "TAKE_PROFIT"),
            ("market", None, {"trailingPercent": 1, "trailingTriggerPrice": 80_000}, "TRAILING_STOP_MARKET"),
        ],
    )
    def test_conditional_orders_go_to_the_endpoints_of_their_own(self, usdm, server, kind, price, params, named):
        made = usdm.create_order(PERP, kind, "sell", 0.01, price, params | {"clientOrderId": "mine-1"})
        assert (made["info"]["orderType"], made["status"], made["clientOrderId"]) == (named, "open", "mine-1")
        assert server.requests[-1].path == "/fapi/v1/algoOrder"
        trigger = {"trigger": True}
        assert [order["id"] for order in usdm.fetch_open_orders(PERP, params=trigger)] == [made["id"]]
        assert usdm.fetch_open_orders(PERP) == []
        assert usdm.fetch_order(made["id"], PERP, trigger)["id"] == made["id"]
        usdm.cancel_order(made["id"], PERP, trigger)
        assert usdm.fetch_open_orders(PERP, params=trigger) == []
        assert usdm.fetch_order(made["id"], PERP, trigger)["status"] == "canceled"
        usdm.create_order(PERP, kind, "sell", 0.01, price, params)
        usdm.cancel_all_orders(PERP, trigger)
        assert usdm.fetch_open_orders(PERP, params=trigger) == []

    def test_a_triggered_order_closes_the_position(self, usdm, server):
        usdm.create_order(PERP, "market", "buy", 0.1)
        last = usdm.fetch_ticker(PERP)["last"]
        trailing = {"trailingPercent": 0.1, "reduceOnly": True}
        made = usdm.create_order(PERP, "market", "sell", 0.1, None, trailing)
        with pytest.raises(ccxt.BaseError, match="-2021"):
            usdm.create_order(PERP, "market", "sell", 0.1, None, {"stopLossPrice": last * 1.1})

        def fall() -> None:
            server.contracts.algos[0].best = 2 * Decimal(str(last))

        server.call(fall)
        wait_until(lambda: server.call(lambda: server.contracts.algos[0].status) == "FINISHED", 10)
        done = usdm.fetch_order(made["id"], PERP, {"trigger": True})
        real = usdm.fetch_order(done["info"]["actualOrderId"], PERP)
        assert (real["status"], real["filled"], real["reduceOnly"]) == ("closed", 0.1, True)
        assert usdm.fetch_positions([PERP]) == []

    def test_the_plain_endpoint_refuses_conditional_orders(self, usdm):
        stop = {"symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET", "quantity": "0.01"}
        with pytest.raises(ccxt.BaseError, match="Algo Order API"):
            usdm.fapiprivate_post_order(stop)

    def test_settings(self, usdm):
        assert usdm.set_leverage(7, PERP)["leverage"] in {7, "7"}
        usdm.set_margin_mode("isolated", PERP)
        with pytest.raises(ccxt.MarginModeAlreadySet):
            usdm.set_margin_mode("isolated", PERP)
        leverage, mode = usdm.fetch_leverage(PERP), usdm.fetch_margin_mode(PERP)
        assert (leverage["longLeverage"], mode["marginMode"]) == (7, "isolated")
        assert usdm.fetch_position_mode(PERP)["hedged"] is False
        with pytest.raises(ccxt.BaseError, match="-4059"):
            usdm.set_position_mode(False, PERP)
        with pytest.raises(ccxt.BaseError, match="one-way mode only"):
            usdm.set_position_mode(True, PERP)
        assert usdm.fetch_leverage_tiers([PERP])[PERP][0]["maxLeverage"] == 125
        assert usdm.fetch_trading_fee(PERP)["taker"] == 0.0005
        usdm.create_order(PERP, "market", "sell", 0.1)
        (position,) = usdm.fetch_positions([PERP], {"useV2": True})
        assert (position["side"], position["marginMode"], position["leverage"]) == ("short", "isolated", 7)
        assert position["collateral"] > 0

    def test_funding_reaches_the_wallet(self, simulator):
        begun_ms = next_funding_ms(START_MS) - 60_000
        server = simulator(contracts=[BTC], margin={"USDT": 10_000}, start_ms=begun_ms, history_ms=DAY_MS, speed=60.0)
        usdm = point(ccxt.binanceusdm({"enableRateLimit": False, "options": {"recvWindow": 60_000}}), server)
        usdm.load_markets()
        usdm.create_order(PERP, "market", "buy", 0.1)
        rate = rate_at("BTCUSDT", next_funding_ms(begun_ms))
        wait_until(lambda: server.clock.now_ms() > next_funding_ms(begun_ms), 10)
        (paid,) = usdm.fetch_funding_history(PERP)
        assert paid["timestamp"] == next_funding_ms(begun_ms)
        assert (paid["amount"] < 0) == (rate > 0)


class TestStreams:
    def test_orders_positions_and_balances(self, server):
        async def main(exchange):
            await exchange.load_markets()
            watching = {
                "orders": asyncio.ensure_future(exchange.watch_orders(PERP)),
                "trades": asyncio.ensure_future(exchange.watch_my_trades(PERP)),
                "positions": asyncio.ensure_future(exchange.watch_positions([PERP])),
                "balance": asyncio.ensure_future(exchange.watch_balance()),
            }
            await come_true(lambda: any(connection.accounts for connection in server.connections.values()))
            await exchange.create_order(PERP, "market", "buy", 0.1)
            await asyncio.wait_for(asyncio.gather(*watching.values()), 10)
            await come_true(lambda: exchange.orders[-1]["status"] == "closed")
            filled = exchange.orders[-1]
            stop = await exchange.create_order(PERP, "market", "sell", 0.1, None, {"stopLossPrice": 50_000})
            await come_true(lambda: exchange.orders[-1]["id"] == stop["id"])
            assert (exchange.orders[-1]["status"], exchange.orders[-1]["triggerPrice"]) == ("open", 50_000)
            return {name: task.result() for name, task in watching.items()} | {"last": filled}

        seen = self.watch(server, main)
        assert (seen["last"]["status"], seen["last"]["filled"]) == ("closed", 0.1)
        assert seen["trades"][0]["fee"]["currency"] == "USDT"
        assert seen["balance"]["USDT"]["total"] < 10_000

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

"""The simulated exchange's wire protocol, through ccxt's own classes and over bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import aiohttp
import ccxt
import ccxt.pro
import pytest
import requests

from ccxtbt.sim.__main__ import build, parse
from ccxtbt.sim.binance_access import sign
from ccxtbt.sim.binance_limits import Limits, Usage
from ccxtbt.sim.clock import ManualClock
from ccxtbt.sim.faults import HTML
from ccxtbt.sim.kline import INTERVALS
from ccxtbt.sim.server import API_KEY, SECRET, START_MS, SimServer
from simulated import BTC, ETH, point
from waiting import come_true

HOUR_MS = 3_600_000
ORDER = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.01",
    "price": "50000",
}


@pytest.fixture
def server(simulator) -> SimServer:
    return simulator(history_ms=2 * HOUR_MS)


def get(server: SimServer, path: str, **params: Any) -> requests.Response:
    return requests.get(server.url + path, params=params, timeout=5)


def signed(
    server: SimServer,
    method: str,
    path: str,
    params: dict[str, Any],
    *,
    secret: str = SECRET,
    api_key: str | None = API_KEY,
    shift_ms: int = 0,
) -> requests.Response:
    query = urlencode({"timestamp": server.clock.now_ms() + shift_ms} | params)
    query += "&signature=" + sign(secret, query)
    headers = {} if api_key is None else {"X-MBX-APIKEY": api_key}
    return requests.request(method, f"{server.url}{path}?{query}", headers=headers, timeout=5)


def code_of(response: requests.Response) -> tuple[int, int]:
    return response.status_code, response.json()["code"]


def run(main: Awaitable[Any], timeout_s: float = 20.0) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(main, timeout_s)

    return asyncio.run(limited())


def ws_url(server: SimServer, path: str) -> str:
    return server.url.replace("http", "ws") + path


@contextlib.asynccontextmanager
async def socket(server: SimServer, path: str, **options: Any):
    async with aiohttp.ClientSession() as session, session.ws_connect(ws_url(server, path), **options) as ws:
        yield ws


async def ask(ws: aiohttp.ClientWebSocketResponse, method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    """Send a request and return its answer; events on the way to it are passed over."""
    await ws.send_json({"id": number, "method": method, **({} if params is None else {"params": params})})
    while True:
        message = await ws.receive_json()
        if message.get("id") == number and "stream" not in message and "e" not in message:
            return message


async def logged_in(ws: aiohttp.ClientWebSocketResponse, server: SimServer, secret: str = SECRET) -> dict[str, Any]:
    params = {"apiKey": API_KEY, "timestamp": server.clock.now_ms()}
    text = f"apiKey={API_KEY}&timestamp={params['timestamp']}"
    return await ask(ws, "userDataStream.subscribe.signature", params | {"signature": sign(secret, text)}, "login")


class TestStartUp:
    def test_ccxt_loads_its_markets_with_every_default_it_has(self, server):
        exchange = point(ccxt.binance({"enableRateLimit": False}), server)
        exchange.options["fetchMargins"] = True
        markets = exchange.load_markets()
        assert sorted(markets) == ["BNB/USDT", "BTC/USDT", "ETH/USDT"]
        assert {record.status for record in server.requests} == {200}
        assert {record.path for record in server.requests} >= {
            "/api/v3/exchangeInfo",
            "/fapi/v1/exchangeInfo",
            "/dapi/v1/exchangeInfo",
            "/sapi/v1/margin/allPairs",
            "/sapi/v1/capital/config/getall",
        }
        market = markets["BTC/USDT"]
        assert (market["precision"]["price"], market["precision"]["amount"]) == (0.01, 0.00001)
        assert market["limits"]["cost"]["min"] == 5

    def test_paths_are_served_bare_and_behind_the_original_host(self, server):
        bare, behind = get(server, "/api/v3/ping"), get(server, "/api.binance.com/api/v3/ping")
        assert bare.json() == behind.json() == {}

    def test_the_time_is_the_simulators(self, binance, server):
        before, told, after = server.clock.now_ms(), binance.fetch_time(), server.clock.now_ms()
        assert before <= told <= after
        assert START_MS <= told < START_MS + HOUR_MS


class TestMarketData:
    @pytest.mark.parametrize("interval", ["1s", "1m", "3m", "15m", "1h"])
    def test_klines_are_the_markets(self, binance, server, interval):
        market = server.exchange.markets["BTCUSDT"]
        end_ms = START_MS - 1
        rows = binance.fetch_ohlcv("BTC/USDT", interval, None, 50, {"until": end_ms})
        truth = server.call(lambda: market.klines(interval, None, end_ms, 50, now_ms=START_MS))
        assert rows == [[row[0], *(float(value) for value in row[1:6])] for row in truth]
        assert rows[-1][0] + INTERVALS[interval] == START_MS

    def test_klines_page_by_start_and_limit(self, binance):
        first = binance.fetch_ohlcv("BTC/USDT", "1m", START_MS - HOUR_MS, 7)
        assert [row[0] for row in first] == [START_MS - HOUR_MS + 60_000 * i for i in range(7)]
        assert len(binance.fetch_ohlcv("BTC/USDT", "1s", START_MS - HOUR_MS, 5000)) == 1000

    def test_trades_and_aggregate_trades_agree(self, server):
        trades = get(server, "/api/v3/trades", symbol="BTCUSDT", limit=20).json()
        again = get(server, "/api/v3/historicalTrades", symbol="BTCUSDT", limit=20, fromId=trades[0]["id"]).json()
        aggregates = get(server, "/api/v3/aggTrades", symbol="BTCUSDT", limit=20, fromId=trades[0]["id"]).json()
        assert again == trades
        assert [(row["a"], row["p"], row["q"], row["T"], row["m"]) for row in aggregates] == [
            (row["id"], row["price"], row["qty"], row["time"], row["isBuyerMaker"]) for row in trades
        ]

    def test_book_and_tickers_agree(self, server):
        depth = server.call(lambda: server.exchange.book("ETHUSDT", 5))
        assert len(depth[1]) == len(depth[2]) == 5
        assert Decimal(depth[1][0][0]) < Decimal(depth[2][0][0])
        tickers = get(server, "/api/v3/ticker/24hr", symbols='["BTCUSDT","ETHUSDT"]').json()
        assert [ticker["symbol"] for ticker in tickers] == ["BTCUSDT", "ETHUSDT"]
        assert all(Decimal(ticker["bidPrice"]) < Decimal(ticker["askPrice"]) for ticker in tickers)
        assert len(get(server, "/api/v3/ticker/price").json()) == 3
        assert get(server, "/api/v3/ticker/bookTicker", symbol="ETHUSDT").json()["symbol"] == "ETHUSDT"

    @pytest.mark.parametrize(
        ("path", "params", "code"),
        [
            ("klines", {"interval": "1m"}, -1102),
            ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
            ("klines", {"symbol": "DOGEUSDT", "interval": "1m"}, -1121),
            ("klines", {"symbol": "btcusdt", "interval": "1m"}, -1100),
            ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "yesterday"}, -1100),
            ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 0}, -1130),
            ("depth", {"symbol": "BTCUSDT", "depth": 5}, -1104),
            ("ticker/24hr", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ],
    )
    def test_bad_parameters_are_refused_as_binance_refuses_them(self, server, path, params, code):
        assert code_of(get(server, f"/api/v3/{path}", **params)) == (400, code)

    def test_what_there_is_not_is_a_page_of_html(self, server):
        answer = get(server, "/api/v3/nothing")
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html")


class TestSignatures:
    @pytest.mark.parametrize(
        ("options", "status_and_code"),
        [
            ({"api_key": None}, (401, -2014)),
            ({"api_key": "not a key"}, (401, -2014)),
            ({"api_key": "unknown"}, (401, -2015)),
            ({"secret": "wrong"}, (400, -1022)),
            ({"shift_ms": -6_000}, (400, -1021)),
            ({"shift_ms": 2_000}, (400, -1021)),
        ],
    )
    def test_what_is_wrong_is_refused(self, server, options, status_and_code):
        assert code_of(signed(server, "GET", "/api/v3/account", {}, **options)) == status_and_code

    def test_the_receive_window_is_the_senders(self, server):
        wide = {"recvWindow": 10_000}
        assert signed(server, "GET", "/api/v3/account", wide, shift_ms=-6_000).status_code == 200
        assert code_of(signed(server, "GET", "/api/v3/account", {"recvWindow": 60_001})) == (400, -1131)

    def test_a_signature_covers_query_and_body(self, server):
        query, body = "symbol=BTCUSDT&side=BUY&type=MARKET", f"quantity=0.01&timestamp={server.clock.now_ms()}"
        body += "&signature=" + sign(SECRET, query + body)
        answer = requests.post(
            f"{server.url}/api/v3/order?{query}", data=body, headers={"X-MBX-APIKEY": API_KEY}, timeout=5
        )
        assert answer.json()["status"] == "FILLED"

    def test_ccxt_names_them(self, server, binance):
        binance.secret = "wrong"
        with pytest.raises(ccxt.AuthenticationError):
            binance.fetch_balance()
        binance.secret, binance.nonce = SECRET, lambda: server.clock.now_ms() - 60_000
        with pytest.raises(ccxt.InvalidNonce):
            binance.fetch_balance()


class TestLimits:
    def test_answers_say_what_was_used(self, server):
        used = [
            int(get(server, path, **params).headers["X-MBX-USED-WEIGHT-1M"])
            for path, params in (
                ("/api/v3/ping", {}),
                ("/api/v3/exchangeInfo", {}),
                ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": 1000}),
                ("/api/v3/ticker/24hr", {}),
            )
        ]
        assert used == [1, 21, 71, 151]
        answer = signed(server, "POST", "/api/v3/order", ORDER)
        assert (answer.headers["X-MBX-ORDER-COUNT-10S"], answer.headers["X-MBX-ORDER-COUNT-1D"]) == ("1", "1")

    def test_too_much_weight_is_429_then_418(self, simulator):
        server = simulator(limits=Limits(weight_per_minute=5, refusals_before_ban=2))
        answers = [get(server, "/api/v3/ping") for _ in range(9)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2 + [418] * 2
        assert 0 < int(answers[5].headers["Retry-After"]) <= 60
        assert 60 < int(answers[7].headers["Retry-After"]) <= 120
        assert answers[7].json()["code"] == -1003
        exchange = point(ccxt.binance({"enableRateLimit": False}), server)
        with pytest.raises(ccxt.DDoSProtection):
            exchange.fetch_time()

    def test_the_minute_and_the_ban_end_by_the_clock(self):
        clock = ManualClock(START_MS)
        usage = Usage(Limits(weight_per_minute=10, refusals_before_ban=0, ban_s=90), clock.now_ms)
        assert usage.charge("a", 10) == 10
        assert usage.charge("b", 1) == 1
        for _ in range(2):
            with pytest.raises(Exception, match="418"):
                usage.charge("a", 1)
        clock.advance(60_000)
        with pytest.raises(Exception, match="418"):
            usage.charge("a", 1)
        clock.advance(30_000)
        assert usage.charge("a", 1) == 1

    def test_too_many_orders(self, simulator):
        server = simulator(limits=Limits(orders_per_10s=2))
        answers = [signed(server, "POST", "/api/v3/order", ORDER) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["code"] == -1015
        assert "Retry-After" not in answers[2].headers


class TestOrders:
    def test_a_resting_order_from_birth_to_cancellation(self, binance):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000, {"clientOrderId": "mine-1"})
        assert (made["status"], made["clientOrderId"], made["amount"], made["filled"]) == ("open", "mine-1", 0.01, 0)
        assert binance.fetch_balance()["USDT"]["used"] == 500
        by_client = binance.fetch_order(None, "BTC/USDT", {"clientOrderId": "mine-1"})
        assert by_client["id"] == made["id"] == binance.fetch_open_orders("BTC/USDT")[0]["id"]
        gone = binance.cancel_order(made["id"], "BTC/USDT")
        assert (gone["status"], gone["id"]) == ("canceled", made["id"])
        assert binance.fetch_open_orders("BTC/USDT") == []
        assert [order["status"] for order in binance.fetch_orders("BTC/USDT")] == ["canceled"]
        with pytest.raises(ccxt.OrderNotFound):
            binance.cancel_order(made["id"], "BTC/USDT")
        with pytest.raises(ccxt.OrderNotFound):
            binance.fetch_order("99", "BTC/USDT")

    def test_a_market_order_and_the_books(self, binance, server):
        made = binance.create_order("BTC/USDT", "market", "buy", 0.5)
        assert (made["status"], made["filled"]) == ("closed", 0.5)
        trades = binance.fetch_my_trades("BTC/USDT")
        assert sum(Decimal(str(trade["amount"])) for trade in trades) == Decimal("0.5")
        assert [trade["id"] for trade in made["trades"]] == [trade["id"] for trade in trades]
        assert {trade["takerOrMaker"] for trade in trades} == {"taker"}
        balances = server.call(lambda: {asset: b.free for asset, b in server.account().balances.items()})
        fees = sum(Decimal(str(trade["fee"]["cost"])) for trade in trades)
        assert balances["BTC"] == 1 + Decimal("0.5") - fees
        assert balances["USDT"] == 100_000 - sum(Decimal(trade["info"]["quoteQty"]) for trade in trades)
        assert float(balances["BTC"]) == binance.fetch_balance()["BTC"]["free"]

    def test_by_quote_quantity_stops_and_post_only(self, binance):
        spent = binance.create_market_buy_order_with_cost("BTC/USDT", 1_000)
        assert (spent["status"], round(spent["cost"])) == ("closed", 1_000)
        stop = binance.create_order("BTC/USDT", "limit", "sell", 0.01, 49_000, {"stopLossPrice": 50_000})
        assert (stop["info"]["type"], stop["status"], stop["triggerPrice"]) == ("STOP_LOSS_LIMIT", "open", 50_000)
        maker = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000, {"postOnly": True})
        assert maker["info"]["type"] == "LIMIT_MAKER"
        assert len(binance.cancel_all_orders("BTC/USDT")) == 2

    def test_editing_is_cancel_and_replace(self, binance):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        edited = binance.edit_order(made["id"], "BTC/USDT", "limit", "buy", 0.02, 51_000)
        assert (edited["status"], edited["amount"]) == ("open", 0.02)
        assert [order["id"] for order in binance.fetch_open_orders("BTC/USDT")] == [edited["id"]]

    def test_half_a_replacement_says_which_half(self, server):
        order = signed(server, "POST", "/api/v3/order", ORDER).json()
        replacing = {"cancelReplaceMode": "STOP_ON_FAILURE", "cancelOrderId": order["orderId"]}
        unpayable = ORDER | {"quantity": "100"}
        answer = signed(server, "POST", "/api/v3/order/cancelReplace", unpayable | replacing)
        assert code_of(answer) == (409, -2021)
        assert answer.json()["data"]["cancelResult"] == "SUCCESS"
        assert answer.json()["data"]["newOrderResponse"]["code"] == -2010
        again = signed(server, "POST", "/api/v3/order/cancelReplace", ORDER | replacing)
        assert code_of(again) == (400, -2022)
        assert again.json()["data"]["newOrderResult"] == "NOT_ATTEMPTED"

    def test_a_test_order_leaves_no_trace(self, binance, server):
        binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000, {"test": True})
        assert server.call(lambda: list(server.exchange.orders)) == []

    @pytest.mark.parametrize(
        ("change", "code", "word"),
        [
            ({"price": "50000.001"}, -1013, "PRICE_FILTER"),
            ({"quantity": "0.010001"}, -1013, "LOT_SIZE"),
            ({"quantity": "0.00001"}, -1013, "NOTIONAL"),
            ({"quantity": "100"}, -2010, "insufficient balance"),
            ({"price": ""}, -1102, "price"),
            ({"symbol": "DOGEUSDT"}, -1121, "Invalid symbol"),
            ({"newClientOrderId": "no spaces"}, -1100, "newClientOrderId"),
            ({"quantity": "1e-2"}, -1100, "quantity"),
            ({"surprise": "1"}, -1104, "Not all sent parameters"),
        ],
    )
    def test_refusals(self, server, change, code, word):
        answer = signed(server, "POST", "/api/v3/order", ORDER | change)
        assert code_of(answer) == (400, code)
        assert word in answer.json()["msg"]
        assert server.call(lambda: list(server.exchange.orders)) == []

    def test_a_day_is_the_longest_span_of_my_trades(self, server):
        span = {"symbol": "BTCUSDT", "startTime": START_MS, "endTime": START_MS + 25 * HOUR_MS}
        assert code_of(signed(server, "GET", "/api/v3/myTrades", span)) == (400, -1127)

    def test_ack_result_and_full(self, server):
        answers = [
            signed(server, "POST", "/api/v3/order", ORDER | {"newOrderRespType": kind}).json()
            for kind in ("ACK", "RESULT", "FULL")
        ]
        assert ["status" in answer for answer in answers] == [False, True, True]
        assert ["fills" in answer for answer in answers] == [False, False, True]


class TestMarketStreams:
    def test_subscribe_list_and_unsubscribe(self, server):
        async def main():
            async with socket(server, "/ws") as ws:
                assert await ask(ws, "SUBSCRIBE", ["btcusdt@trade", "ethusdt@trade"]) == {"result": None, "id": 1}
                assert (await ask(ws, "LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@trade", "ethusdt@trade"]
                await ask(ws, "UNSUBSCRIBE", ["ethusdt@trade"])
                assert (await ask(ws, "LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@trade"]
                assert (await ws.receive_json())["s"] == "BTCUSDT"

        run(main())

    def test_streams_in_the_address_and_combined_frames(self, server):
        async def main():
            async with socket(server, "/stream.binance.com:9443/stream?streams=btcusdt@trade/ethusdt@aggTrade") as ws:
                seen = {}
                while len(seen) < 2:
                    message = await ws.receive_json()
                    seen[message["stream"]] = message["data"]["e"]
                assert seen == {"btcusdt@trade": "trade", "ethusdt@aggTrade": "aggTrade"}
            async with socket(server, "/ws/btcusdt@bookTicker") as ws:
                message = await ws.receive_json()
                assert sorted(message) == ["A", "B", "a", "b", "s", "u"]
                await ask(ws, "SET_PROPERTY", ["combined", True])
                assert (await ask(ws, "GET_PROPERTY", ["combined"]))["result"] is True
                assert (await ws.receive_json())["stream"] == "btcusdt@bookTicker"

        run(main())

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("{", 3),
            ("[]", 2),
            ('{"method": "DANCE", "id": 1}', 2),
            ('{"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 1}', 2),
            ('{"method": "SUBSCRIBE", "params": ["a@trade", "b@trade", "c@trade"], "id": 1}', 2),
            ('{"method": "GET_PROPERTY", "params": ["colour"], "id": 1}', 0),
            ('{"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}', 1),
        ],
    )
    def test_messages_that_make_no_sense(self, simulator, text, code):
        server = simulator(limits=Limits(ws_streams=2))

        async def main():
            async with socket(server, "/ws") as ws:
                await ws.send_str(text)
                assert (await ws.receive_json())["error"]["code"] == code

        run(main())

    def test_a_symbol_that_is_not_listed_stays_silent(self, server):
        async def main():
            async with socket(server, "/ws") as ws:
                assert (await ask(ws, "SUBSCRIBE", ["dogeusdt@trade", "btcusdt@kline_7m"]))["result"] is None
                await ask(ws, "SUBSCRIBE", ["btcusdt@trade"])
                assert (await ws.receive_json())["e"] == "trade"

        run(main())

    def test_closed_bars_come_once_each_and_are_the_rest_bars(self, simulator):
        server = simulator([BTC], speed=20.0)

        async def main():
            closed, forming = [], []
            async with socket(server, "/ws/btcusdt@kline_1s") as ws:
                while len(closed) < 25:
                    kline = (await ws.receive_json())["k"]
                    (closed if kline["x"] else forming).append(kline)
            return closed, forming

        closed, forming = run(main())
        first, last = closed[0]["t"], closed[-1]["t"]
        rows = get(server, "/api/v3/klines", symbol="BTCUSDT", interval="1s", startTime=first, endTime=last).json()
        sent = [
            [k["t"], k["o"], k["h"], k["l"], k["c"], k["v"], k["T"], k["q"], k["n"], k["V"], k["Q"]] for k in closed
        ]
        assert sent == [row[:11] for row in rows]
        assert forming
        assert all(kline["T"] == kline["t"] + 999 for kline in forming)

    def test_depth_diffs_keep_a_book_up_to_date(self, simulator):
        server = simulator([replace(BTC, trades_per_minute=2400.0)])

        def snapshot() -> dict[str, Any]:
            return get(server, "/api/v3/depth", symbol="BTCUSDT", limit=1000).json()

        async def main():
            streams = "btcusdt@depth@100ms/btcusdt@depth20@100ms"
            async with socket(server, f"/stream?streams={streams}") as ws:
                while "U" not in (await ws.receive_json())["data"]:
                    pass
                book = await asyncio.to_thread(snapshot)
                last, sides = book["lastUpdateId"], (dict(book["bids"]), dict(book["asks"]))
                compared = 0
                while compared < 5:
                    data = (await ws.receive_json())["data"]
                    if data.get("u", -1) > last:
                        assert data["U"] <= last + 1
                        last = data["u"]
                        for side, key in zip(sides, "ba", strict=True):
                            side.update(data[key])
                    elif data.get("lastUpdateId") == last:
                        here = [{price: qty for price, qty in side.items() if Decimal(qty)} for side in sides]
                        bids = sorted(here[0].items(), key=lambda level: -Decimal(level[0]))
                        asks = sorted(here[1].items(), key=lambda level: Decimal(level[0]))
                        assert [list(level) for level in bids[:20]] == data["bids"]
                        assert [list(level) for level in asks[:20]] == data["asks"]
                        compared += 1

        run(main())

    def test_tickers(self, server):
        async def main():
            async with socket(
                server, "/stream?streams=btcusdt@ticker/btcusdt@miniTicker/!miniTicker@arr/ethusdt@depth5"
            ) as ws:
                seen = {}
                while len(seen) < 4:
                    message = await ws.receive_json()
                    seen[message["stream"]] = message["data"]
                assert seen["btcusdt@ticker"]["e"] == "24hrTicker"
                assert seen["btcusdt@miniTicker"]["c"] == seen["btcusdt@ticker"]["c"]
                assert len(seen["!miniTicker@arr"]) == 3
                assert len(seen["ethusdt@depth5"]["bids"]) == 5

        run(main())

    def test_an_event_nobody_wants_is_not_made(self, server):
        async def main():
            async with socket(server, "/ws/btcusdt@trade") as ws:
                await ws.receive()
            await come_true(lambda: not server.connections, 5)

            return server.exchange._watched

        assert run(main()) == {}


class TestUserStream:
    def test_reports_and_balances_of_an_order(self, server):
        async def main():
            async with socket(server, "/ws-api.binance.com:443/ws-api/v3") as ws:
                assert (await logged_in(ws, server))["result"] == {"subscriptionId": 0}
                market = ORDER | {"type": "MARKET", "quantity": "0.1"}
                del market["price"], market["timeInForce"]
                answer = await asyncio.to_thread(lambda: signed(server, "POST", "/api/v3/order", market).json())
                events = []
                while not events or events[-1].get("X") != "FILLED":
                    message = await ws.receive_json()
                    assert message["subscriptionId"] == 0
                    events.append(message["event"])
                reports = [event for event in events if event["e"] == "executionReport"]
                assert [report["x"] for report in reports] == ["NEW"] + ["TRADE"] * len(answer["fills"])
                assert {report["i"] for report in reports} == {answer["orderId"]}
                assert [report["t"] for report in reports[1:]] == [fill["tradeId"] for fill in answer["fills"]]
                assert reports[-1]["z"] == answer["executedQty"] == "0.10000000"
                assert reports[-1]["Z"] == answer["cummulativeQuoteQty"]
                assert all(report["N"] == "BTC" for report in reports[1:])
                while events[-1]["e"] != "outboundAccountPosition":
                    events.append((await ws.receive_json())["event"])
                free = server.call(lambda: server.account().balance("BTC").free)
                assert {row["a"]: row["f"] for row in events[-1]["B"]}["BTC"] == f"{free:.8f}"

        run(main())

    def test_a_deposit_is_announced(self, server):
        async def main():
            async with socket(server, "/ws-api/v3") as ws:
                await logged_in(ws, server)
                await asyncio.to_thread(server.deposit, "ETH", "1.5")
                update, position = (await ws.receive_json())["event"], (await ws.receive_json())["event"]
                assert (update["e"], update["d"]) == ("balanceUpdate", "1.50000000")
                assert position["B"] == [{"a": "ETH", "f": "11.50000000", "l": "0.00000000"}]

        run(main())

    def test_subscriptions_are_signed_numbered_and_ended(self, simulator):
        server = simulator(limits=Limits(ws_messages_per_s=100))

        async def main():
            async with socket(server, "/ws-api/v3") as ws:
                refused = await logged_in(ws, server, secret="wrong")
                assert (refused["status"], refused["error"]["code"]) == (400, -1022)
                await logged_in(ws, server)
                assert (await logged_in(ws, server))["error"]["code"] == -2035
                assert (await ask(ws, "session.subscriptions"))["result"] == [{"subscriptionId": 0}]
                await asyncio.to_thread(server.terminate_user_streams)
                assert (await ws.receive_json())["event"]["e"] == "eventStreamTerminated"
                assert (await ask(ws, "session.subscriptions"))["result"] == []
                assert (await logged_in(ws, server))["result"] == {"subscriptionId": 1}
                unknown = await ask(ws, "teleport")
                assert (unknown["status"], unknown["error"]["code"]) == (400, -1020)

        run(main())

    def test_orders_by_socket_through_ccxt(self, server):
        async def main():
            exchange = point(ccxt.pro.binance({"enableRateLimit": False}), server)
            exchange.options["fetchMarkets"] = {"types": ["spot"]}
            try:
                await exchange.load_markets()
                made = await exchange.create_order_ws("BTC/USDT", "limit", "buy", 0.01, 50_000)
                assert made["status"] == "open"
                assert (await exchange.fetch_order_ws(made["id"], "BTC/USDT"))["status"] == "open"
                assert [order["id"] for order in await exchange.fetch_open_orders_ws("BTC/USDT")] == [made["id"]]
                assert (await exchange.cancel_order_ws(made["id"], "BTC/USDT"))["status"] == "canceled"
                assert (await exchange.fetch_my_trades_ws("BTC/USDT")) == []
            finally:
                await exchange.close()

        run(main())

    @pytest.mark.parametrize(
        ("reports", "expected"), [("before", [True, True]), ("after", [False, False]), ("mixed", [True, False])]
    )
    def test_reports_leave_before_or_after_the_answer(self, simulator, reports, expected):
        server = simulator(reports=reports, pump_ms=400.0)

        async def main():
            before = []
            async with socket(server, "/ws-api/v3") as ws, aiohttp.ClientSession() as session:
                await logged_in(ws, server)
                for _ in range(2):
                    query = urlencode(ORDER | {"timestamp": server.clock.now_ms()})
                    url = f"{server.url}/api/v3/order?{query}&signature={sign(SECRET, query)}"
                    report = asyncio.ensure_future(ws.receive_json())
                    async with session.post(url, headers={"X-MBX-APIKEY": API_KEY}) as answer:
                        await answer.read()
                    # What left before the answer is in the socket already; the pump is 400 ms away.
                    there, _ = await asyncio.wait({report}, timeout=0.1)
                    before.append(bool(there))
                    assert (await report)["event"]["x"] == "NEW"
                    assert (await ws.receive_json())["event"]["e"] == "outboundAccountPosition"
            return before

        assert run(main()) == expected


class TestConnections:
    def test_pings_and_pongs(self, simulator):
        server = simulator(limits=Limits(ws_ping_s=0.05, ws_pong_s=0.2))

        async def main():
            async with socket(server, "/ws", autoping=False) as ws:
                message = await ws.receive()
                assert message.type is aiohttp.WSMsgType.PING
                assert START_MS <= int(message.data) < START_MS + HOUR_MS
                await ws.ping(b"hello")
                while message.type is not aiohttp.WSMsgType.PONG:
                    message = await ws.receive()
                assert message.data == b"hello"
                while message.type is not aiohttp.WSMsgType.CLOSE:
                    message = await ws.receive()
                assert message.data == 1008

        run(main())

    def test_who_answers_pings_stays_until_too_old(self, simulator):
        server = simulator(speed=20.0, limits=Limits(ws_ping_s=1, ws_pong_s=2, ws_age_s=10))

        async def main():
            async with socket(server, "/ws") as ws:
                message = await ws.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
            return server.clock.now_ms()

        assert run(main()) - START_MS >= 10_000

    def test_too_many_messages(self, server):
        async def main():
            async with socket(server, "/ws") as ws:
                # One more than a second allows: after it the server may close at any moment.
                for number in range(Limits().ws_messages_per_s + 1):
                    await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
                closed = None
                while closed is None:
                    message = await ws.receive()
                    closed = message.data if message.type is aiohttp.WSMsgType.CLOSE else None
                assert closed == 1008

        run(main())

    def test_too_many_connections(self, simulator):
        server = simulator(limits=Limits(ws_connects_per_5min=1))

        async def main():
            async with socket(server, "/ws"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    async with socket(server, "/ws"):
                        pass
                assert refused.value.status == 429

        run(main())

    def test_a_shutdown_is_announced(self, server):
        async def main():
            async with socket(server, "/ws") as market, socket(server, "/ws-api/v3") as user:
                assert await asyncio.to_thread(server.announce_shutdown) == 2
                assert (await market.receive_json())["e"] == "serverShutdown"
                assert (await user.receive_json())["event"]["e"] == "serverShutdown"
                assert await asyncio.to_thread(server.close_connections, 1001) == 2
                assert (await market.receive()).data == (await user.receive()).data == 1001

        run(main())

    def test_there_is_no_other_socket(self, server):
        async def main():
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with socket(server, "/elsewhere"):
                    pass
            assert refused.value.status == 404

        run(main())


class TestRestFaults:
    """What each fault looks like to ccxt, and whether the order lives."""

    def orders(self, server: SimServer) -> int:
        return len(server.call(lambda: list(server.exchange.orders)))

    def place(self, binance: ccxt.binance) -> Any:
        return binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000, {"clientOrderId": "mine"})

    def test_the_answer_of_the_second_order_is_dropped(self, server, binance):
        rule = server.faults.drop_answer(path="/api/v3/order", method="POST", nth=2)
        binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        with pytest.raises(ccxt.NetworkError):
            self.place(binance)
        assert self.orders(server) == 2
        assert binance.fetch_order(None, "BTC/USDT", {"clientOrderId": "mine"})["status"] == "open"
        assert [(fired.nth, fired.action) for fired in server.faults.log] == [(2, "request drop_answer")]
        assert rule.seen == 2

    def test_an_order_is_filled_before_its_cancel(self, server, binance):
        rule = server.faults.fill_first(path="/api/v3/order", method="DELETE")
        placed = self.place(binance)
        with pytest.raises(ccxt.OrderNotFound):
            binance.cancel_order(placed["id"], "BTC/USDT")
        found = binance.fetch_order(placed["id"], "BTC/USDT")
        assert (found["status"], found["filled"], rule.fired) == ("closed", 0.01, 1)

    @pytest.mark.parametrize(
        ("add", "error", "lives"),
        [
            (lambda faults, **which: faults.rate_limited(**which), ccxt.DDoSProtection, False),
            (lambda faults, **which: faults.banned(**which), ccxt.DDoSProtection, False),
            (lambda faults, **which: faults.server_error(500, **which), ccxt.OperationFailed, False),
            (lambda faults, **which: faults.server_error(502, taken=True, **which), ccxt.ExchangeNotAvailable, True),
            (lambda faults, **which: faults.server_error(503, **which), ccxt.OperationFailed, False),
            (lambda faults, **which: faults.server_error(504, taken=True, **which), ccxt.RequestTimeout, True),
            (lambda faults, **which: faults.truncate(**which), ccxt.BaseError, True),
            (lambda faults, **which: faults.delay_request(7.0, **which), ccxt.RequestTimeout, False),
            (lambda faults, **which: faults.out_of_step(**which), ccxt.InvalidNonce, False),
        ],
    )
    def test_what_ccxt_raises_and_whether_the_order_lives(self, simulator, add, error, lives):
        server = simulator()
        binance = point(ccxt.binance({"enableRateLimit": False, "timeout": 500}), server)
        binance.options["fetchMarkets"] = {"types": ["spot"]}
        binance.load_markets()
        add(server.faults, path="/api/v3/order", method="POST")
        with pytest.raises(error):
            self.place(binance)
        assert self.orders(server) == int(lives)

    def test_a_shortened_answer_is_an_order_without_an_id(self, server, binance):
        server.faults.truncate(cut=False, path="/api/v3/order", method="POST")
        assert self.place(binance)["id"] is None
        assert self.orders(server) == 1

    def test_a_late_answer_belongs_to_an_order_that_lives(self, server, binance):
        server.faults.delay_answer(5.0, path="/api/v3/order", method="POST")
        binance.timeout = 300
        with pytest.raises(ccxt.RequestTimeout):
            self.place(binance)
        assert self.orders(server) == 1

    def test_a_delayed_request_is_judged_by_the_clock_of_its_arrival(self, simulator):
        server = simulator(speed=20.0)
        server.faults.delay_request(6.0, path="/api/v3/account")
        assert code_of(signed(server, "GET", "/api/v3/account", {})) == (400, -1021)

    def test_html_and_nothing_where_bars_should_be(self, server, binance):
        server.faults.html(path="/api/v3/klines")
        server.faults.empty(path="/api/v3/klines", nth=2)
        assert get(server, "/api/v3/klines", symbol="BTCUSDT", interval="1m").content == HTML
        assert get(server, "/api/v3/klines", symbol="BTCUSDT", interval="1m").content == b""
        assert len(binance.fetch_ohlcv("BTC/USDT", "1m", None, 5)) == 5

    def test_faults_reach_requests_by_socket(self, server):
        server.faults.server_error(503, path="order.place", method="WS")
        server.faults.drop_answer(path="time", method="WS")

        async def main():
            async with socket(server, "/ws-api/v3") as ws:
                answer = await ask(ws, "order.place", ORDER)
                assert (answer["status"], answer["error"]["code"]) == (503, -1001)
                await ws.send_json({"id": 2, "method": "time"})
                assert (await ws.receive()).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}

        run(main())

    def test_latency_counts_both_ways(self, simulator):
        server = simulator(latency_ms=50)
        began = time.monotonic()
        get(server, "/api/v3/ping")
        assert time.monotonic() - began >= 0.1


class TestSocketFaults:
    @pytest.fixture
    def server(self, simulator) -> SimServer:
        return simulator([BTC], speed=10.0)

    def receive(self, server: SimServer, count: int, path: str = "/ws/btcusdt@trade") -> list[Any]:
        """Return the ids of the next trades; a close or a cut ends the list with its code."""

        async def main():
            got: list[Any] = []
            async with socket(server, path) as ws:
                while len(got) < count:
                    message = await ws.receive()
                    if message.type is aiohttp.WSMsgType.TEXT:
                        got.append(json.loads(message.data)["t"])
                    else:
                        got.append(ws.close_code)
                        break
            return got

        return run(main())

    @pytest.mark.parametrize("code", [1000, 1001, 1008])
    def test_close_on_the_third_frame(self, server, code):
        server.faults.close(code, stream="btcusdt@trade", nth=3)
        got = self.receive(server, 10)
        assert (len(got), got[-1]) == (3, code)
        assert len(self.receive(server, 3)) == 3

    def test_abort_on_the_third_frame(self, server):
        server.faults.abort(event="trade", nth=3)
        got = self.receive(server, 10)
        assert (len(got), got[-1]) == (3, 1006)

    def test_lose_duplicate_and_reorder(self, server):
        server.faults.lose(stream="btcusdt@trade", nth=2)
        server.faults.duplicate(stream="btcusdt@trade", nth=4)
        server.faults.reorder(stream="btcusdt@trade", nth=6)
        got = self.receive(server, 8)
        assert [number - got[0] for number in got] == [0, 2, 3, 3, 4, 6, 5, 7]

    def test_a_delayed_frame_is_overtaken(self, server):
        server.faults.delay(1.0, stream="btcusdt@trade", nth=2)
        got = self.receive(server, 25)
        offsets = [number - got[0] for number in got]
        assert offsets.index(1) > 1
        assert sorted(offsets) == list(range(25))

    def test_a_garbled_frame(self, server):
        server.faults.garble(b'{"e":', stream="btcusdt@trade", nth=2)
        with pytest.raises(json.JSONDecodeError):
            self.receive(server, 3)

    def test_a_stalled_connection_is_silent_and_open(self, server):
        server.faults.stall(stream="btcusdt@trade", nth=2)

        async def main():
            async with aiohttp.ClientSession() as session:
                ws = await session.ws_connect(
                    ws_url(server, "/ws/btcusdt@trade"), timeout=aiohttp.ClientWSTimeout(ws_close=0.1)
                )
                await ws.receive()
                await come_true(lambda: server.faults.log, 5)
                await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
                await ws.ping()
                with pytest.raises(asyncio.TimeoutError):
                    await ws.receive(timeout=0.3)
                assert not ws.closed
                assert [connection.stalled for connection in server.connections.values()] == [True]
                await ws.close()

        run(main())

    def test_rules_may_choose_what_the_frame_says(self, server):
        server.faults.lose(stream="user", event="executionReport", where=lambda event: event["x"] == "NEW", times=0)

        async def main():
            async with socket(server, "/ws-api/v3") as ws:
                await logged_in(ws, server)
                order = await asyncio.to_thread(lambda: signed(server, "POST", "/api/v3/order", ORDER).json())
                await asyncio.to_thread(
                    lambda: signed(
                        server, "DELETE", "/api/v3/order", {"symbol": "BTCUSDT", "orderId": order["orderId"]}
                    )
                )
                kinds = []
                while "CANCELED" not in kinds:
                    kinds.append((await ws.receive_json())["event"].get("x"))
                assert "NEW" not in kinds

        run(main())

    def test_refuse_delay_and_accept_and_close(self, server):
        server.faults.refuse_connect(503, socket="market")
        server.faults.accept_and_close(1008, socket="market", nth=2)
        server.faults.delay_connect(3.0, socket="market", nth=3)

        async def main():
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with socket(server, "/ws"):
                    pass
            async with socket(server, "/ws") as ws:
                assert (await ws.receive()).data == 1008
            began = time.monotonic()
            async with socket(server, "/ws"):
                assert time.monotonic() - began >= 0.3
            assert server.connects == 3

        run(main())


class TestLifeCycle:
    def test_it_ends_with_everything_open_and_leaves_nothing(self, simulator):
        before = set(threading.enumerate())
        server = simulator([BTC, ETH])

        async def main():
            async with aiohttp.ClientSession() as session:
                paths = ("/ws/btcusdt@trade", "/ws-api/v3", "/ws/ethusdt@depth")
                sockets = [await session.ws_connect(ws_url(server, path)) for path in paths]
                await come_true(lambda: len(server.connections) == 3, 5)
                await asyncio.to_thread(server.stall_connections, "user")
                began = time.monotonic()
                await asyncio.to_thread(server.stop)
                assert time.monotonic() - began < 2
                assert [(await ws.receive(timeout=5)).type for ws in sockets[1:2]] == [aiohttp.WSMsgType.CLOSED]

        run(main())
        assert {thread for thread in threading.enumerate() if thread.name == "ccxtbt-sim"} <= before
        assert server.connections == {}
        server.stop()
        with pytest.raises(requests.ConnectionError):
            get(server, "/api/v3/ping")

    def test_a_taken_port_is_said_at_once(self, server):
        second = SimServer.of([BTC], port=server.port)
        with pytest.raises(OSError, match="address already in use"):
            second.start()

    def test_an_error_in_the_exchange_is_not_swallowed(self):
        server = SimServer.of([BTC]).start()

        server.call(setattr, server.exchange, "advance", None)
        server._thread.join(5)
        with pytest.raises(RuntimeError, match="died while it ran"):
            server.stop()

    def test_a_configuration_file_says_what_the_command_line_does_not(self, tmp_path):
        config = tmp_path / "sim.json"
        spec = {"symbol": "XRPBTC", "base": "XRP", "quote": "BTC", "price": "0.00002", "tick_size": "0.00000001"}
        config.write_text(json.dumps({"specs": [spec], "speed": 4.0, "balances": "XRP:7", "seed": 9}))
        server = build(parse(["--config", str(config), "--seed", "3"]))
        assert server.speed == 4.0
        assert server.exchange.markets["XRPBTC"].spec.tick_size == Decimal("0.00000001")
        assert server.account().balance("XRP").free == 7
        same = build(parse(["--config", str(config), "--seed", "3"]))
        now_ms = START_MS + HOUR_MS
        rows = [s.exchange.markets["XRPBTC"].klines("1m", limit=5, now_ms=now_ms) for s in (server, same)]
        assert rows[0] == rows[1]
        config.write_text('{"colour": "red"}')
        with pytest.raises(SystemExit):
            parse(["--config", str(config)])

    @pytest.mark.parametrize("how", ["signal", "stdin"])
    def test_in_a_process_of_its_own(self, how):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ccxtbt.sim",
                "--symbols",
                "BTC/USDT:60000",
                "--history-days",
                "0.1",
                "--with-stdin",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "error"},
        )
        try:
            line = json.loads(process.stdout.readline())
            assert line["pid"] == process.pid
            assert requests.get(line["url"] + "/api/v3/ticker/price", timeout=5).json()[0]["symbol"] == "BTCUSDT"
            if how == "signal":
                process.send_signal(signal.SIGTERM)
            else:
                process.stdin.close()
            assert process.wait(5) == 0
        finally:
            process.kill()
            process.stdout.close()
            process.stdin.close()
            process.wait()


def test_a_replica_that_is_behind_answers_as_the_exchange_was(server, binance):
    server.faults.lag(3_000.0, path="/api/v3/klines", nth=2)
    now_ms = server.clock.now_ms()
    fresh, stale = (binance.public_get_klines({"symbol": "BTCUSDT", "interval": "1m"}) for _ in range(2))
    assert int(fresh[-1][0]) >= now_ms // 60_000 * 60_000 - 60_000
    assert int(stale[-1][0]) == (now_ms - 3_000_000) // 60_000 * 60_000


def test_a_clock_that_is_ahead_and_a_restart(server, binance):
    server.faults.skew(3.0)
    assert 2_500 <= binance.fetch_time() - server.clock.now_ms() <= 3_000
    server.restart(0.05)
    assert -500 <= binance.fetch_time() - server.clock.now_ms() <= 0

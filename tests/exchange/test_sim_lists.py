"""Order lists and replaced orders of the simulated exchange, through ccxt's own class and the user stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import ccxt
import ccxt.pro
import pytest

from ccxtbt.sim.binance_access import sign
from ccxtbt.sim.server import API_KEY, SECRET, SimServer
from simulated import point
from waiting import come_true, wait_until

SYMBOL = {"symbol": "BTCUSDT"}
EXITS = {"aboveType": "LIMIT_MAKER", "abovePrice": "70000", "belowType": "STOP_LOSS", "belowStopPrice": "50000"}
OCO = SYMBOL | {"side": "SELL", "quantity": "0.1"} | EXITS
ENTRY = {"workingType": "LIMIT", "workingSide": "BUY", "workingTimeInForce": "GTC", "workingQuantity": "0.1"}
PENDING = {"pendingSide": "SELL", "pendingQuantity": "0.09"}
OTO = SYMBOL | ENTRY | PENDING | {"pendingType": "LIMIT", "pendingPrice": "70000", "pendingTimeInForce": "GTC"}
OTOCO = SYMBOL | ENTRY | PENDING
OTOCO |= {f"pending{name[0].upper()}{name[1:]}": value for name, value in EXITS.items()}


@pytest.fixture
def server(simulator) -> SimServer:
    return simulator(history_ms=3_600_000)


def statuses(binance: ccxt.binance, made: dict[str, Any]) -> list[str]:
    return [binance.fetch_order(str(order["orderId"]), "BTC/USDT")["info"]["status"] for order in made["orders"]]


class TestPlacing:
    def test_a_pair_from_birth_to_cancellation(self, binance, server):
        assert binance.market("BTC/USDT")["info"]["ocoAllowed"] is True
        made = binance.private_post_orderlist_oco(OCO | {"listClientOrderId": "exit-1"})
        assert (made["contingencyType"], made["listStatusType"], made["listOrderStatus"]) == (
            "OCO",
            "EXEC_STARTED",
            "EXECUTING",
        )
        assert [report["type"] for report in made["orderReports"]] == ["LIMIT_MAKER", "STOP_LOSS"]
        assert {report["orderListId"] for report in made["orderReports"]} == {made["orderListId"]}
        assert binance.fetch_balance()["BTC"]["used"] == 0.1
        assert len(binance.fetch_open_orders("BTC/USDT")) == 2
        found = binance.private_get_orderlist({"origClientOrderId": "exit-1"})
        assert found == {name: value for name, value in made.items() if name != "orderReports"}
        assert binance.private_get_openorderlist() == binance.private_get_allorderlist() == [found]
        gone = binance.private_delete_orderlist(SYMBOL | {"orderListId": made["orderListId"]})
        assert gone["listOrderStatus"] == "ALL_DONE"
        assert [report["status"] for report in gone["orderReports"]] == ["CANCELED", "CANCELED"]
        assert len({report["clientOrderId"] for report in gone["orderReports"]}) == 1
        assert binance.private_get_openorderlist() == []
        assert binance.fetch_balance()["BTC"]["used"] == 0

    def test_the_old_way_to_place_a_pair(self, binance):
        old = SYMBOL | {"side": "SELL", "quantity": "0.1", "price": "70000", "stopPrice": "50000"}
        made = binance.private_post_order_oco(old | {"stopLimitPrice": "49000", "stopLimitTimeInForce": "GTC"})
        assert [report["type"] for report in made["orderReports"]] == ["LIMIT_MAKER", "STOP_LOSS_LIMIT"]

    def test_cancelling_one_order_answers_with_the_list(self, binance):
        made = binance.private_post_orderlist_oco(OCO)
        answer = binance.cancel_order(str(made["orders"][0]["orderId"]), "BTC/USDT")
        assert answer["info"]["listOrderStatus"] == "ALL_DONE"
        assert answer["id"] is None
        assert statuses(binance, made) == ["CANCELED", "CANCELED"]

    def test_cancelling_all_answers_with_the_list_once(self, binance):
        binance.private_post_orderlist_oco(OCO)
        binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        assert len(binance.cancel_all_orders("BTC/USDT")) == 2
        assert binance.fetch_open_orders("BTC/USDT") == []

    def test_three_orders_of_which_two_wait(self, binance):
        made = binance.private_post_orderlist_otoco(OTOCO | {"workingPrice": "50000"})
        assert [report["status"] for report in made["orderReports"]] == ["NEW", "PENDING_NEW", "PENDING_NEW"]
        assert made["contingencyType"] == "OTO"
        balance = binance.fetch_balance()
        assert (balance["USDT"]["used"], balance["BTC"]["used"]) == (5_000, 0)
        binance.cancel_order(str(made["orders"][0]["orderId"]), "BTC/USDT")
        assert statuses(binance, made) == ["CANCELED"] * 3

    def test_the_second_phase_follows_the_first(self, binance):
        made = binance.private_post_orderlist_oto(OTO | {"workingPrice": "61000"})
        assert [report["status"] for report in made["orderReports"]] == ["FILLED", "PENDING_NEW"]
        wait_until(lambda: statuses(binance, made) == ["FILLED", "NEW"], 10)
        assert binance.fetch_balance()["BTC"]["used"] == 0.09

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"belowType": "LIMIT_MAKER"}, -1168),
            ({"aboveType": "STOP_LOSS", "belowType": "LIMIT_MAKER"}, -1197),
            ({"belowStopPrice": "65000"}, -2010),
            ({"quantity": "100"}, -2010),
            ({"aboveType": ""}, -1102),
            ({"surprise": "1"}, -1104),
        ],
    )
    def test_refusals(self, binance, server, change, code):
        with pytest.raises(ccxt.BaseError):
            binance.private_post_orderlist_oco(OCO | change)
        assert json.loads(binance.last_http_response)["code"] == code
        assert server.call(lambda: list(server.exchange.orders)) == []

    def test_weights_and_order_counts(self, binance, server):
        used = server.call(lambda: server.usage.weight("127.0.0.1"))
        binance.private_post_orderlist_oco(OCO)
        binance.private_post_orderlist_otoco(OTOCO | {"workingPrice": "50000"})
        assert server.call(lambda: server.usage.orders(API_KEY)) == (5, 5)
        binance.private_get_orderlist({"orderListId": 0})
        binance.private_get_openorderlist()
        binance.private_get_allorderlist()
        binance.private_delete_orderlist(SYMBOL | {"orderListId": 0})
        assert server.call(lambda: server.usage.weight("127.0.0.1")) - used == 1 + 1 + 4 + 6 + 20 + 1


class TestReplacing:
    def test_an_edited_order_is_a_new_one(self, binance):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        edited = binance.edit_order(made["id"], "BTC/USDT", "limit", "buy", 0.02, 51_000, {"clientOrderId": "new-1"})
        assert edited["id"] != made["id"]
        assert (edited["status"], edited["amount"], edited["price"], edited["clientOrderId"]) == (
            "open",
            0.02,
            51_000,
            "new-1",
        )
        assert binance.fetch_order(made["id"], "BTC/USDT")["status"] == "canceled"
        assert binance.fetch_balance()["USDT"]["used"] == 1_020

    def test_an_edit_into_the_market_is_filled(self, binance):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        edited = binance.edit_order(made["id"], "BTC/USDT", "market", "buy", 0.01)
        assert (edited["status"], edited["filled"]) == ("closed", 0.01)

    def test_a_new_order_that_cannot_be_paid_leaves_none(self, binance):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        with pytest.raises(ccxt.BaseError, match="-2021"):
            binance.edit_order(made["id"], "BTC/USDT", "limit", "buy", 100, 51_000)
        assert binance.fetch_open_orders("BTC/USDT") == []

    def test_what_is_gone_is_not_replaced(self, binance, server):
        made = binance.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
        binance.cancel_order(made["id"], "BTC/USDT")
        with pytest.raises(ccxt.BaseError, match="-2022"):
            binance.edit_order(made["id"], "BTC/USDT", "limit", "buy", 0.02, 51_000)
        assert binance.fetch_open_orders("BTC/USDT") == []
        assert len(server.call(lambda: list(server.exchange.orders))) == 1


class TestUserStream:
    @contextlib.asynccontextmanager
    async def stream(self, server: SimServer):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(server.url.replace("http", "ws") + "/ws-api/v3") as ws,
        ):
            params = {"apiKey": API_KEY, "timestamp": server.clock.now_ms()}
            text = f"apiKey={API_KEY}&timestamp={params['timestamp']}"
            login = {"id": 1, "method": "userDataStream.subscribe.signature"}
            await ws.send_json(login | {"params": params | {"signature": sign(SECRET, text)}})
            await ws.receive_json()
            yield ws

    async def said(self, ws: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
        """Return the events up to the end of a list."""
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while not events or (events[-1]["e"], events[-1].get("L")) != ("listStatus", "ALL_DONE"):
                events.append((await ws.receive_json())["event"])
        return events

    def test_what_a_list_tells(self, server, binance):
        async def main():
            async with self.stream(server) as ws:
                made = await asyncio.to_thread(binance.private_post_orderlist_oco, OCO)
                await asyncio.to_thread(binance.private_delete_orderlist, SYMBOL | {"orderListId": 0})
                return made, await self.said(ws)

        made, events = asyncio.run(main())
        kinds = [event["e"] for event in events if event["e"] != "outboundAccountPosition"]
        assert kinds == ["executionReport"] * 2 + ["listStatus"] + ["executionReport"] * 2 + ["listStatus"]
        assert {event["g"] for event in events if "g" in event} == {made["orderListId"]} == {0}
        statuses = [event for event in events if event["e"] == "listStatus"]
        assert [(event["c"], event["l"], event["L"]) for event in statuses] == [
            ("OCO", "EXEC_STARTED", "EXECUTING"),
            ("OCO", "ALL_DONE", "ALL_DONE"),
        ]
        assert [row["i"] for row in statuses[0]["O"]] == [order["orderId"] for order in made["orders"]]
        assert statuses[0]["C"] == made["listClientOrderId"]

    def test_why_an_order_expired(self, server, binance):
        async def main():
            async with self.stream(server) as ws:
                working = {"workingPrice": "50000", "workingTimeInForce": "FOK"}
                await asyncio.to_thread(binance.private_post_orderlist_otoco, OTOCO | working)
                return await self.said(ws)

        reports = [event for event in asyncio.run(main()) if event["e"] == "executionReport"]
        assert [report["X"] for report in reports[:3]] == ["NEW", "PENDING_NEW", "PENDING_NEW"]
        assert [report["eR"] for report in reports[3:]] == [
            "UNFILLED_FOK_ORDER_EXPIRED",
            "OTO_PHASE_ONE_EXPIRED",
            "OTO_PHASE_ONE_EXPIRED",
        ]
        assert not any("eR" in report for report in reports[:3])

    def test_ccxt_pro_watches_the_orders_of_a_list(self, server):
        async def main():
            exchange = point(ccxt.pro.binance({"enableRateLimit": False}), server)
            exchange.options["fetchMarkets"] = {"types": ["spot"]}
            try:
                await exchange.load_markets()
                watching = asyncio.ensure_future(exchange.watch_orders("BTC/USDT"))
                await come_true(lambda: any(connection.accounts for connection in server.connections.values()))
                await exchange.private_post_orderlist_oco(OCO)
                await asyncio.wait_for(watching, 10)
                await come_true(lambda: len(exchange.orders) == 2)
                return {order["info"]["o"]: (order["status"], order["info"]["g"]) for order in exchange.orders}
            finally:
                await exchange.close()

        assert asyncio.run(main()) == {"LIMIT_MAKER": ("open", 0), "STOP_LOSS": ("open", 0)}

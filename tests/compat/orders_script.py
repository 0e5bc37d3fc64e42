"""A script as users of bt-ccxt-store have it, with the same calls; its argument says what it orders."""

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime, timedelta

import backtrader as bt
from backtrader import Order

from ccxtbt import CCXTStore

KIND = sys.argv[1]
STOP_LIMIT = {"stop": "STOP_LOSS_LIMIT", "target": "TAKE_PROFIT_LIMIT"}.get(KIND, "stop limit")


class OneOrder(bt.Strategy):
    def __init__(self):
        logging.basicConfig(level=logging.INFO)
        self.order = None

    def next(self):
        if self.live_data and self.order is None:
            if KIND == "stop":
                self.order = self.buy(size=2.0, exectype=Order.Limit, price=5.4326)
                self.cancel(self.order)
                self.order = self.sell(size=2.0, exectype=Order.StopLimit, price=5.475, stopPrice=5.4763)
            else:
                self.order = self.sell(size=2.0, exectype=Order.StopLimit, price=7.485, params={"stopPrice": 7.485})
        for data in self.datas:
            print(f"bar {data.datetime.datetime()} {data._name} {data.close[0]} {data.volume[0]}")

    def notify_data(self, data, status, *args, **kwargs):
        print(f"{datetime.now(UTC)} {data._name} Data Status: {data._getstatusname(status)}, Order Status: {status}")
        self.live_data = data._getstatusname(status) == "LIVE"

    def notify_order(self, order):
        print("order", order.ref, order.getstatusname())


with open(os.path.join(os.path.dirname(__file__), "../params.json")) as file:  # noqa: PTH118, PTH120, PTH123  # as they do
    params = json.load(file)

cerebro = bt.Cerebro(quicknotify=True)
cerebro.broker.setcash(10.0)
cerebro.addstrategy(OneOrder)
config = {
    "apiKey": params["binance"]["apikey"],
    "secret": params["binance"]["secret"],
    "enableRateLimit": True,
    "nonce": lambda: str(int(time.time() * 1000)),
}
store = CCXTStore(exchange="binance", currency="BNB", config=config, retries=5, debug=True)
broker = store.getbroker(
    broker_mapping={
        "order_types": {
            bt.Order.Market: "market",
            bt.Order.Limit: "limit",
            bt.Order.Stop: "stop_loss",
            bt.Order.StopLimit: STOP_LIMIT,
        },
        "mappings": {
            "closed_order": {"key": "status", "value": "closed"},
            "canceled_order": {"key": "result", "value": 1},
        },
    }
)
cerebro.setbroker(broker)
data = store.getdata(
    dataname="BNB/USDT",
    name="BNBUSDT",
    timeframe=bt.TimeFrame.Seconds,
    fromdate=datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=2),
    compression=1,
    ohlcv_limit=50,
    drop_newest=True,
)
cerebro.adddata(data)
cerebro.run()

"""A script as users of bt-ccxt-store have it, with the same calls; its arguments are a timeframe and minutes back."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import backtrader as bt

from ccxtbt import CCXTStore

TIMEFRAME, MINUTES_BACK = getattr(bt.TimeFrame, sys.argv[1]), int(sys.argv[2])


class Crossing(bt.Strategy):
    def __init__(self):
        self.average = bt.indicators.SMA(self.data, period=21)

    def notify_data(self, data, status, *args, **kwargs):
        print("status", data._name, data._getstatusname(status))
        # Read in `next`: a status has to come before the first bar.
        self.live_data = data._getstatusname(status) == "LIVE"

    def next(self):
        cash, value = self.broker.get_wallet_balance("BNB") if self.live_data else (None, None)
        for data in self.datas:
            when = data.datetime.datetime().isoformat()
            print("bar", data._name, when, cash, value, data.close[0], data.volume[0], self.average[0])


with Path("./samples/params.json").open() as file:
    params = json.load(file)

cerebro = bt.Cerebro(quicknotify=True)
cerebro.broker.setcash(10.0)
cerebro.addstrategy(Crossing)
config = {
    "apiKey": params["binance"]["apikey"],
    "secret": params["binance"]["secret"],
    "enableRateLimit": True,
}
store = CCXTStore(exchange="binance", currency="BNB", config=config, retries=5, debug=False)
broker = store.getbroker(
    broker_mapping={
        "order_types": {
            bt.Order.Market: "market",
            bt.Order.Limit: "limit",
            bt.Order.Stop: "stop-loss",
            bt.Order.StopLimit: "stop limit",
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
    timeframe=TIMEFRAME,
    fromdate=datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=MINUTES_BACK),
    compression=1,
    ohlcv_limit=50,
    drop_newest=True,
)
cerebro.adddata(data)
cerebro.run()

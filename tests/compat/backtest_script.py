"""A backtest as users of bt-ccxt-store have it, with the same calls: a feed that makes its own store, without keys."""

import time
from datetime import datetime

import backtrader as bt

from ccxtbt import CCXTFeed


class Closes(bt.Strategy):
    def next(self, dt=None):
        dt = dt or self.datas[0].datetime.datetime(0)
        print(f"{dt.isoformat()} closing price: {self.datas[0].close[0]}")


def main():
    cerebro = bt.Cerebro()
    cerebro.addstrategy(Closes)
    cerebro.adddata(
        CCXTFeed(
            exchange="binance",
            dataname="BNB/USDT",
            timeframe=bt.TimeFrame.Minutes,
            fromdate=datetime(2019, 1, 1, 0, 0),  # noqa: DTZ001  # as they do
            todate=datetime(2019, 1, 1, 0, 2),  # noqa: DTZ001
            compression=1,
            ohlcv_limit=2,
            currency="BNB",
            retries=5,
            config={"enableRateLimit": True, "nonce": lambda: str(int(time.time() * 1000))},
        )
    )
    cerebro.run()


if __name__ == "__main__":
    main()

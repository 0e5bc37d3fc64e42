"""A simulated exchange whose every trade a test writes down, and an account on it."""

from __future__ import annotations

from decimal import Decimal

from ccxtbt.sim.clock import ManualClock
from ccxtbt.sim.market import Replay
from ccxtbt.sim.matching import Account, Exchange, OrderRequest
from ccxtbt.sim.spec import Spec

D = Decimal
START_MS = 1_700_000_000_000
SPEC = Spec(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    step_size=D("0.001"),
    min_qty=D("0.001"),
    max_qty=D(1000),
    market_max_qty=D(50),
    trade_value=100.0,
)
BOUGHT, SOLD = False, True


class Bench:
    """An exchange on a tape of (seconds after the start, price, qty, buyer_is_maker), and an account on it."""

    def __init__(self, *tape, balances=None, spec=SPEC, **more):
        trades = [(START_MS, "100", "1", SOLD)]
        trades += [(START_MS + int(at_s * 1000), price, qty, side) for at_s, price, qty, side in tape]
        self.clock = ManualClock(START_MS)
        self.markets = {spec.symbol: Replay(spec, trades)}
        self.exchange = Exchange(self.markets, self.clock, **more)
        self.account = self.exchange.add_account(Account("key", "secret", balances or {"USDT": 10_000, "BTC": 10}))

    def place(self, side, kind, account=None, **fields):
        numbers = {
            name: D(fields.pop(name)) for name in ("quantity", "quote_qty", "price", "stop_price") & fields.keys()
        }
        if kind in {"LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"}:
            fields.setdefault("time_in_force", "GTC")
        request = OrderRequest(**({"symbol": "BTCUSDT", "side": side, "type": kind} | numbers | fields))
        return self.exchange.place(account or self.account, request)

    def run(self, to_s):
        self.clock.set_ms(START_MS + int(to_s * 1000))
        return self.exchange.advance(self.clock.now_ms())

    def funds(self, asset, account=None):
        balance = (account or self.account).balance(asset)
        return balance.free, balance.locked

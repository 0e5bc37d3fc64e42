"""The main job from end to end, against the simulated exchange: history, live bars, brackets, fills, books."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import backtrader as bt
from rich.console import Console
from rich.table import Table

import ccxtbt
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.clock import Clock
from ccxtbt.market.timeframes import Timeframe, floor_ms, parse, to_backtrader
from ccxtbt.sim.account import Account
from ccxtbt.sim.clock import SimClock
from ccxtbt.sim.market import Market, Replay
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.server import SimServer
from ccxtbt.sim.spec import Spec
from ccxtbt.trading.dates import ms_of

API_KEY, SECRET = "demo-key", "demo-secret"  # of the simulated exchange
QUOTE_AT_START = 100_000
MAKER_FEE, TAKER_FEE = Decimal("0.001"), Decimal("0.001")
# A seeded market begins here, so that one seed always makes one market.
START = dt.datetime(2026, 1, 5, 12, tzinfo=dt.UTC)

# How long before the end of a run positions are closed.
WIND_UP_BARS = 3

BarRow = tuple[int, float, float, float, float, float]


@dataclass(frozen=True)
class Plan:
    """What a run of the demo does.

    Attributes
    ----------
    symbols : tuple of str
        ccxt's unified symbols.
    timeframe : Timeframe
        Length of the bars.
    history : int
        Lengths of bars of history before the live ones; a quiet one has no bar.
    live : int
        Live bars for which the strategy trades.
    speed : float
        Seconds of the exchange in one second here.
    seed : int
        Seed of the market.
    """

    symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
    timeframe: Timeframe = field(default_factory=lambda: parse("1s"))
    history: int = 3_000
    live: int = 240
    speed: float = 8.0
    seed: int = 7

    @property
    def bar_ms(self) -> int:
        """Length of a bar in ms."""
        return self.timeframe.nominal_ms


PRICES = {"BTC": Decimal(60_000), "ETH": Decimal(3_000), "SOL": Decimal(150)}


def seeded_exchange(plan: Plan) -> Exchange:
    """Return an exchange with one seeded market for each symbol of the plan."""
    start_ms = int(START.timestamp() * 1000)
    markets = {}
    for symbol in plan.symbols:
        base, quote = symbol.split("/")
        spec = Spec(
            symbol=base + quote, base=base, quote=quote, price=PRICES[base], trades_per_minute=90.0, volatility=0.002
        )
        history_ms = (plan.history + 60) * plan.bar_ms
        markets[spec.symbol] = Market(spec, plan.seed, start_ms, history_ms=history_ms)
    return Exchange(markets, SimClock(start_ms, plan.speed), MAKER_FEE, TAKER_FEE)


def read_trades(path: Path) -> list[tuple[int, str, str, bool]]:
    """Read recorded trades: CSV, also gzipped, with columns timestamp (ms), side, price, amount.

    Raises
    ------
    ConfigError
        The file is missing, or has other columns.
    """
    if not path.is_file():
        raise ConfigError(f"--trades {path}: there is no such file.")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as lines:
        rows = csv.DictReader(lines)
        missing = {"timestamp", "side", "price", "amount"} - set(rows.fieldnames or ())
        if missing:
            raise ConfigError(f"--trades {path}: no column {', '.join(sorted(missing))}; it has {rows.fieldnames}.")
        try:
            return [(int(row["timestamp"]), row["price"], row["amount"], row["side"] == "sell") for row in rows]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--trades {path}: line {rows.line_num} is no trade: {error}") from error


def plan_of(trades: list[tuple[int, str, str, bool]], symbol: str, live: int, speed: float) -> Plan:
    """Return the plan that goes through all of `trades` as 1m bars, the last `live` minutes of them live.

    Raises
    ------
    ConfigError
        The symbol is none, or the trades are too few.
    """
    if len(symbol.split("/")) != 2:
        raise ConfigError(f"--symbol {symbol}: give base and quote, such as XRP/ETH.")
    if not trades:
        raise ConfigError("--trades: the file has no trades.")
    minute = parse("1m")
    first, last = floor_ms(minute, trades[0][0]), floor_ms(minute, trades[-1][0])
    bars = (last - first) // minute.nominal_ms + 1
    if live >= bars:
        raise ConfigError(f"--live {live}: the trades last {bars} minutes, so at most {bars - 1} can be live.")
    return Plan((symbol,), minute, history=bars - live, live=live, speed=speed)


def replayed_exchange(plan: Plan, trades: list[tuple[int, str, str, bool]]) -> Exchange:
    """Return an exchange that replays `trades`: all but the last `plan.live` bars are history."""
    (symbol,) = plan.symbols
    base, quote = symbol.split("/")
    spec = Spec.of_trades(base + quote, base, quote, trades)
    first_live_ms = trades[-1][0] // plan.bar_ms * plan.bar_ms - (plan.live - 1) * plan.bar_ms
    market = Replay(spec, trades, start_ms=first_live_ms)
    return Exchange({spec.symbol: market}, SimClock(first_live_ms, plan.speed), MAKER_FEE, TAKER_FEE)


class SmaBrackets(bt.Strategy):
    """Buys where a fast average crosses above a slow one, with a stop and a target; long only."""

    params = (
        ("fast", 8),
        ("slow", 24),
        ("risk", 0.004),
        ("stake", 0.1),
        ("wind_up_ms", 0),
        ("end_ms", 0),
        ("say", None),
    )

    def __init__(self) -> None:
        self.crosses = {
            data: bt.ind.CrossOver(bt.ind.SMA(data, period=self.p.fast), bt.ind.SMA(data, period=self.p.slow))
            for data in self.datas
        }
        self.live: set[Any] = set()
        self.open_orders: dict[Any, dict[int, Any]] = defaultdict(dict)
        self.closing: set[Any] = set()
        self.bars: dict[Any, list[BarRow]] = defaultdict(list)
        self.equity: list[tuple[float, float]] = []
        self.done: dict[int, Any] = {}
        self.trades = 0
        self.pnl = 0.0

    def notify_data(self, data: Any, status: int, *args: Any, **kwargs: Any) -> None:
        name = data._getstatusname(status)
        self.p.say(f"[cyan]data [/cyan] {data._name:9} {name}")
        (self.live.add if name == "LIVE" else self.live.discard)(data)

    def notify_store(self, msg: str, *args: Any, **kwargs: Any) -> None:
        self.p.say(f"[magenta]store[/magenta] {msg}")

    def notify_order(self, order: Any) -> None:
        side = "buy" if order.isbuy() else "sell"
        filled = f" {abs(order.executed.size):g} @ {order.executed.price:g}" if order.executed.size else ""
        reason = f" ({order.info.reason})" if order.info.reason else ""
        what = f"#{order.ref:<3} {side} {order.getordername():9}"
        self.p.say(f"[yellow]order[/yellow] {order.data._name:9} {what} {order.getstatusname()}{filled}{reason}")
        if order.alive():
            self.open_orders[order.data][order.ref] = order
        else:
            self.open_orders[order.data].pop(order.ref, None)
            self.done[order.ref] = order

    def notify_trade(self, trade: Any) -> None:
        if trade.isclosed:
            self.trades += 1
            self.pnl += trade.pnlcomm
            self.p.say(f"[green]trade[/green] {trade.data._name:9} closed, PnL {trade.pnlcomm:+.4f}")

    def record(self) -> None:
        """Keep each bar as the strategy sees it."""
        for data in self.datas:
            if len(data) == len(self.bars[data]):
                continue
            stamp_ms = ms_of(data.datetime[0])
            self.bars[data].append((stamp_ms, data.open[0], data.high[0], data.low[0], data.close[0], data.volume[0]))
        self.equity.append((max(data.datetime[0] for data in self.datas if len(data)), self.broker.getvalue()))

    def prenext(self) -> None:
        self.record()

    def next(self) -> None:
        self.record()
        reached_ms = min(self.bars[data][-1][0] for data in self.datas)
        if reached_ms >= self.p.wind_up_ms:
            self.wind_up(reached_ms)
        else:
            for data in self.live:
                self.trade(data)

    def trade(self, data: Any) -> None:
        if self.open_orders[data] or self.getposition(data) or self.crosses[data][0] <= 0:
            return
        price = data.close[0]
        self.buy_bracket(
            data=data,
            size=self.p.stake * self.broker.getcash() / len(self.datas) / price,
            exectype=bt.Order.Market,
            stopprice=price * (1 - self.p.risk),
            limitprice=price * (1 + self.p.risk),
        )

    def wind_up(self, reached_ms: int) -> None:
        """Cancel what is open, close what is held, and end the run at its last bar."""
        for data in self.datas:
            for order in list(self.open_orders[data].values()):
                if order.ref not in self.closing:
                    self.closing.add(order.ref)
                    self.cancel(order)
            if not self.open_orders[data] and data not in self.closing and self.getposition(data):
                self.closing.add(data)
                order = self.close(data)
                self.open_orders[data][order.ref] = order
        if reached_ms >= self.p.end_ms and not any(self.open_orders.values()):
            self.env.runstop()


@dataclass
class Report:
    """What a run did, and every way in which it differs from the exchange's own books."""

    table: Table
    faults: list[str]
    strategy: SmaBrackets
    live_ms: int  # the first bar after the history opens here


def run(plan: Plan, exchange: Exchange, console: Console) -> Report:
    """Trade the plan on the exchange over real HTTP and WebSocket, and compare the books.

    Returns
    -------
    Report
        Its `faults` are empty if every bar and every figure agrees.
    """
    account = exchange.add_account(
        Account(API_KEY, SECRET, {market.spec.quote: QUOTE_AT_START for market in exchange.markets.values()})
    )
    live_ms = exchange.clock.now_ms() // plan.bar_ms * plan.bar_ms
    server = SimServer(exchange)
    server.start()
    try:
        store = ccxtbt.CCXTStore(
            exchange="binance",
            currency=plan.symbols[0].split("/")[1],
            config={"apiKey": API_KEY, "secret": SECRET},
            endpoint=server.url,
            clock=Clock(rate=plan.speed),
            # The exchange ends with the demo: nobody will ask what was sent to it.
            journal=None,
        )
        cerebro = bt.Cerebro(stdstats=False)
        start_ms = live_ms - plan.history * plan.bar_ms
        end_ms = live_ms + plan.live * plan.bar_ms
        timeframe, compression = to_backtrader(plan.timeframe)
        for symbol in plan.symbols:
            feed = store.getdata(
                dataname=symbol,
                name=symbol,
                timeframe=timeframe,
                compression=compression,
                fromdate=dt.datetime.fromtimestamp(start_ms / 1000, dt.UTC).replace(tzinfo=None),
            )
            cerebro.adddata(feed)
        cerebro.setbroker(store.getbroker())
        # A recording has no bars after its end: positions are closed a little before it.
        wind_up_ms = end_ms - WIND_UP_BARS * plan.bar_ms
        cerebro.addstrategy(SmaBrackets, wind_up_ms=wind_up_ms, end_ms=end_ms, say=console.print)
        try:
            (strategy,) = cerebro.run()
        finally:
            store.stop()
    finally:
        server.stop()
    return audit(plan, exchange, account, strategy, live_ms)


def audit(plan: Plan, exchange: Exchange, account: Account, strategy: SmaBrackets, live_ms: int) -> Report:
    """Hold what the strategy saw and what its broker believes against the exchange's own books."""
    faults: list[str] = []
    table = Table(title="The run, and the exchange's own books beside it")
    for heading in ("market", "bars", "by origin", "orders", "fills", "fees", "position", "held", "exchange's"):
        table.add_column(heading, justify="left" if heading == "market" else "right", no_wrap=True)
    broker = strategy.broker
    for data in strategy.datas:
        base, quote = data._name.split("/")
        market = exchange.markets[base + quote]
        first_ms = live_ms - plan.history * plan.bar_ms
        wrong = compare_bars(plan, market, strategy.bars[data], first_ms, exchange.clock.now_ms())
        faults += [f"{data._name}: {text}" for text in wrong]
        orders = [order for order in strategy.done.values() if order.data is data]
        fills = exchange.my_trades(account, market.spec.symbol, limit=1_000)
        booked = sum(len(order.executed.exbits) for order in orders)
        if booked != len(fills):
            faults.append(f"{data._name}: the broker booked {booked} fills, the exchange {len(fills)}")
        position, booked_base = Decimal(str(broker.getposition(data).size)), broker.amount(base)
        held = account.balance(base).total
        # What a fee leaves of a lot no order can sell: it is held, and in no position.
        if booked_base != held or not 0 <= held - position < market.spec.step_size:
            faults.append(
                f"{data._name}: the broker holds {booked_base} {base} ({position} in lots), the exchange {held}"
            )
        fees: dict[str, Decimal] = defaultdict(Decimal)
        for fill in fills:
            fees[fill.commission_asset] += fill.commission
        table.add_row(
            data._name,
            "differ" if wrong else "equal",
            ", ".join(f"{count} {origin}" for origin, count in data.origins.items()),
            str(len(orders)),
            str(booked),
            "\n".join(f"{fee:.8f} {asset}" for asset, fee in fees.items()) or "-",
            f"{position:f}",
            f"{booked_base.normalize():f}",
            f"{held.normalize():f}",
        )
    cash = broker.amount(quote)
    quote_held = account.balance(quote).total
    if cash != quote_held:
        faults.append(f"the broker's cash is {cash} {quote}, the exchange's {quote_held}")
    table.caption = (
        f"{strategy.trades} trades closed, PnL {strategy.pnl:+.4f} {quote}; "
        f"cash {cash:.8f} {quote}, at the exchange {quote_held:.8f}"
    )
    return Report(table, faults, strategy, live_ms)


def compare_bars(plan: Plan, market: Market, seen: list[BarRow], first_ms: int, now_ms: int) -> list[str]:
    """Return how the bars that a strategy saw differ from the exchange's klines: missing, doubled or different.

    Compared are the bars that open from `first_ms` on, up to the last one seen.
    """
    if not seen:
        return ["no bars came"]
    last_ms = seen[-1][0] - plan.bar_ms
    truth: dict[int, BarRow] = {}
    since_ms = first_ms
    while since_ms <= last_ms:
        rows = market.klines(plan.timeframe.text, start_ms=since_ms, end_ms=last_ms, limit=1_000, now_ms=now_ms)
        if not rows:
            break
        for row in rows:
            truth[row[0] + plan.bar_ms] = (row[0] + plan.bar_ms, *map(float, row[1:6]))
        since_ms = rows[-1][0] + plan.bar_ms
    faults = [
        f"{count} times the bar of {stamp}" for stamp, count in Counter(bar[0] for bar in seen).items() if count > 1
    ]
    faults += [f"no bar of {stamp}" for stamp in truth if stamp not in {bar[0] for bar in seen}]
    return faults + [f"bar {bar}, the exchange has {truth.get(bar[0])}" for bar in seen if truth.get(bar[0]) != bar]


def draw(report: Report, path: Path) -> None:
    """Write a picture of the live part: prices with entries and exits, and the account's value below.

    A tenth of it is the end of the history, before the dotted line.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # an extra, and slow to import

    strategy, live_ms = report.strategy, report.live_ms
    last_ms = max(bars[-1][0] for bars in strategy.bars.values())
    since_ms = live_ms - (last_ms - live_ms) // 9
    figure = Figure(figsize=(12, 3 * (len(strategy.datas) + 1)), layout="constrained")
    axes = figure.subplots(len(strategy.datas) + 1, 1)
    for axis, data in zip(axes, strategy.datas, strict=False):
        bars = [bar for bar in strategy.bars[data] if bar[0] > since_ms]
        axis.plot([when(bar[0]) for bar in bars], [bar[4] for bar in bars], color="0.35", linewidth=0.8)
        for order in strategy.done.values():
            if order.data is not data or not order.executed.size:
                continue
            marker, colour = ("^", "tab:green") if order.isbuy() else ("v", "tab:red")
            at = when(ms_of(order.executed.dt))
            axis.plot(at, order.executed.price, marker=marker, color=colour, markersize=8)
        axis.set_title(data._name, loc="left")
    worth = [(ms_of(at), value) for at, value in strategy.equity]
    worth = [(ms, value) for ms, value in worth if ms > since_ms]
    axes[-1].plot([when(ms) for ms, _ in worth], [value for _, value in worth], color="tab:blue", linewidth=1)
    axes[-1].set_title("value of the account", loc="left")
    for axis in axes:
        axis.axvline(when(live_ms), color="0.6", linestyle=":")
    figure.savefig(path, dpi=110)


def when(ms: int) -> dt.datetime:
    """Return a datetime in UTC."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)

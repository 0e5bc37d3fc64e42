"""The books test: whatever goes wrong on the way, orders, fills, positions, cash and fees are the exchange's.

Random strategies trade five markets through ccxt's real class and a real cerebro, while the exchange does what real
ones do wrong. The seed fixes the markets, the choices of the strategy and the faults, by the n-th request and frame;
what meets what is up to the sockets, so a failure comes with all that happened, in order.
"""

from dataclasses import replace
from decimal import Decimal

import pytest

from ccxtbt.sim.funding import FUNDING_MS
from ccxtbt.sim.server import START_MS
from gambler import Gambler
from ledger import Diary, Ledger, contracts_differ
from planned import SECONDS
from simulated import BNB, BTC, ETH
from troubles import SPEED, SPOT, TIMEOUT_S, USDM, Troubles
from watching import ago, run, store_of

# Prices and sizes of all kinds: a tick of the last decimal there is, whole coins, a lot above the tick.
MARKETS = tuple(
    replace(spec, volatility=0.002, trades_per_minute=200.0)
    for spec in (
        BTC,
        replace(ETH, step_size=Decimal("0.0001"), min_qty=Decimal("0.0001")),
        replace(BNB, step_size=Decimal("0.001"), min_qty=Decimal("0.001")),
        replace(
            BNB, symbol="SHIBUSDT", base="SHIB", price=Decimal("0.00002345"), tick_size=Decimal("0.00000001"),
            min_price=Decimal("0.00000001"), step_size=Decimal(1), min_qty=Decimal(1), max_qty=Decimal(10**10),
            market_max_qty=Decimal(10**9),
        ),
        replace(
            BNB, symbol="XRPUSDT", base="XRP", price=Decimal("0.6"), tick_size=Decimal("0.0001"),
            min_price=Decimal("0.0001"), step_size=Decimal("0.1"), min_qty=Decimal("0.1"),
        ),
    )
)  # fmt: skip
OPENING = {"USDT": 100_000, "BTC": 0, "ETH": 2, "BNB": 0, "SHIB": 0, "XRP": 1_000}
CONTRACTS = MARKETS[:3]
WALLET = {"USDT": 100_000}
# Funding is paid soon after the start.
FUNDED_MS = START_MS + FUNDING_MS - 25_000

# Each must have come to pass in each run of the short form.
KINDS = {
    "order: answer lost", "order: answer late", "order: time-out, taken", "order: fill before its answer",
    "5xx, taken", "5xx, not taken", "429", "418", "-1021", "-2013", "cancel: after fill",
    "report: twice", "report: behind others", "report: late", "report: lost", "break",
}  # fmt: skip
LIMIT_S = 90.0


def play(simulator, monkeypatch, tmp_path, seed, faults, venue=SPOT, lists=0, **kinds):
    """Trade until so many faults, and such of order lists, have come to pass, and hold the books to the exchange's."""
    held = {"contracts": CONTRACTS, "margin": WALLET, "start_ms": FUNDED_MS} if venue.contracts else {}
    server = simulator(
        MARKETS, seed=seed, history_ms=600_000, speed=SPEED, balances=OPENING, latency_ms=20, reports="mixed", **held
    )
    diary = Diary(server, monkeypatch, venue)
    store = store_of(
        server,
        "binanceusdm" if venue.contracts else "binance",
        config={"timeout": round(TIMEOUT_S * 1_000)},
        journal=tmp_path / "journal.sqlite",
    )
    specs, kind = (CONTRACTS, ":USDT") if venue.contracts else (MARKETS, "")
    symbols = [f"{spec.base}/{spec.quote}{kind}" for spec in specs]
    feeds = [store.getdata(dataname=symbol, fromdate=ago(server, minutes=1), **SECONDS) for symbol in symbols]
    broker = store.getbroker(check_interval=0.5)
    troubles: list[Troubles] = []

    def act(watcher):
        if not troubles and all(watcher.states[data][-1:] == ["LIVE"] for data in watcher.datas):
            troubles.append(Troubles(server, seed, faults, venue))
        if troubles:
            gambler.act(watcher)

    def until(watcher):
        # What was paid for a contract, and its mean price, are found out a moment later.
        return gambler.until(watcher) and not (venue.contracts and any(contracts_differ(server, watcher, broker)))

    def enough():
        of_lists = sum(count for kind, count in troubles[0].happened.items() if "list" in kind)
        return troubles[0].count >= faults and of_lists >= lists

    gambler = Gambler(seed, enough, contracts=venue.contracts, **kinds)
    wrong: list[tuple[str, str]] = []
    try:
        watcher = run(store, *feeds, broker=broker, act=act, until=until, limit_s=LIMIT_S)
        journal = tmp_path / "journal.sqlite"
        wrong += Ledger(server, watcher, broker, gambler.made, journal, OPENING, venue).differences()
    except AssertionError as error:
        open_ = [order for order in gambler.made if order.alive()]
        wrong += [("run", str(error)), *((f"order {order.ref}", "never ended") for order in open_)]
    finally:
        (tmp_path / "diary.txt").write_text("\n".join(diary.lines()))
    if wrong:
        print(f"All that happened: {tmp_path / 'diary.txt'}; what tells of the differences:")
        print("\n".join([f"{whose}: {said}" for whose, said in wrong] + diary.lines(whose for whose, _ in wrong)))
    happened = troubles[0].happened if troubles else {}
    print(f"seed {seed}: {len(gambler.made)} orders, {sum(happened.values())} faults: {dict(happened)}")
    assert not wrong
    return happened


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_books_are_the_exchanges(simulator, monkeypatch, tmp_path, seed):
    happened = play(simulator, monkeypatch, tmp_path, seed, 100)
    assert sum(happened.values()) >= 100
    assert {kind for kind in KINDS if not happened[kind]} == set()


@pytest.mark.parametrize("seed", [1])
def test_the_books_of_contracts_are_the_exchanges(simulator, monkeypatch, tmp_path, seed):
    happened = play(simulator, monkeypatch, tmp_path, seed, 100, USDM)
    assert sum(happened.values()) >= 100


@pytest.mark.parametrize("seed", [6, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(201, 211))])
def test_the_books_are_the_exchanges_where_order_lists_are_many(simulator, monkeypatch, tmp_path, seed):
    play(simulator, monkeypatch, tmp_path, seed, 60, lists=4, bracket=40, oco=40)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(101, 151))
def test_the_books_are_the_exchanges_for_long(simulator, monkeypatch, tmp_path, seed):
    happened = play(simulator, monkeypatch, tmp_path, seed, 300)
    assert sum(happened.values()) >= 300


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(201, 211))
def test_the_books_of_contracts_are_the_exchanges_for_long(simulator, monkeypatch, tmp_path, seed):
    happened = play(simulator, monkeypatch, tmp_path, seed, 300, USDM)
    assert sum(happened.values()) >= 300

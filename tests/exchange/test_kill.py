"""The kill test: a run that is killed at any moment goes on in the next one as if nothing had been.

A seeded strategy trades in a process of its own against a simulator in another. It is killed with SIGKILL, at random
moments and at moments that are hit for sure, and started again on the same journal. What meets what is up to the
sockets, so invariants are held, and a failure comes with what happened.
"""

import json
import multiprocessing
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import pytest

from apart import Apart
from ccxtbt.sim.server import API_KEY
from mortal import POINTS, live
from simulated import BTC, ETH

SPEED = 8.0
OPENING = {"USDT": 100_000, "BTC": 5, "ETH": 100}
LOT = Decimal("0.00001")
MARKETS = {
    f"{spec.base}/{spec.quote}": replace(
        spec, volatility=0.003, trades_per_minute=300.0, step_size=LOT, min_qty=LOT, max_algo_orders=200
    )
    for spec in (BTC, ETH)
}
# An entry has its exit at the exchange so long after the process was started again.
PROTECTED_S = 5.0
LIVE_S = 30.0
# Moments that each life has once.
AT_START = ("before it catches up", "while it asks", "while it catches up", "before it protects")
BY_PARENT = ("random", "soon", "between send and answer")
WORKING = ("NEW", "PARTIALLY_FILLED")


class Lives:
    """The lives of one strategy, on one exchange and one journal."""

    def __init__(self, exchange, journal, seed):
        self.exchange, self.journal, self.seed = exchange, journal, seed
        self.rng = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        # Imported once, so that a life begins as soon as its process.
        self.context.set_forkserver_preload(["mortal"])
        self.said: list[str] = []
        self.count = 0
        self.slowest_s = 0.0
        self.waited: list[float] = []

    def note(self, text):
        self.said.append(f"life {self.count}: {text}")

    def begin(self, *, point="", count=1, settle=False):
        """Start the next life."""
        self.count += 1
        line, other = self.context.Pipe(duplex=False)
        arguments = (
            other,
            self.exchange.url,
            str(self.journal),
            1000 * self.seed + self.count,
            SPEED,
            point,
            count,
            settle,
        )
        process = self.context.Process(target=live, args=arguments, daemon=True)
        process.start()
        other.close()
        return process, line

    def hear(self, line, wanted, until_s, meanwhile=lambda: None):
        """Return what a life says of a kind; None if it ends, or says nothing of it in time."""
        while time.monotonic() < until_s:
            meanwhile()
            try:
                if line.poll(0.02):
                    kind, text = line.recv()
                    self.note(f"{kind} {text}")
                    if kind == wanted:
                        return text
            except EOFError:
                return None
        return None

    def kill(self, how):
        """Live one life, and end it so."""
        by_parent = how in BY_PARENT
        exposed = self.unprotected()
        count = self.rng.choice((2, 5, 15, 40)) if how not in AT_START else 1
        process, line = self.begin(point="" if by_parent else how, count=count)
        self.note(how)
        begun_s = time.monotonic()
        try:
            if how == "soon":
                process.join(self.rng.uniform(0.1, 1.2))
            else:
                self.hear(line, "begun", begun_s + LIVE_S)
                begun_s = time.monotonic()
                self.protect(process, exposed, begun_s)
                # A life that dies by itself has nothing to say.
                lives = by_parent and self.hear(line, "live", begun_s + LIVE_S) is not None
                if how == "random" and lives:
                    process.join(self.rng.uniform(0.5, 4.0))
                elif how == "between send and answer" and lives:
                    self.until_sent()
                elif not by_parent:
                    process.join(LIVE_S)
                    assert process.exitcode == -signal.SIGKILL, f"it did not come to die {how}"
        finally:
            process.kill()
            process.join()
            line.close()

    def protect(self, process, exposed, begun_s):
        """Wait until what was entered and had no exit has one."""
        while exposed and process.is_alive():
            exposed &= self.unprotected()
            took_s = time.monotonic() - begun_s
            assert took_s < PROTECTED_S, f"{exposed} have no exit {took_s:.1f} s after the start"
            if not exposed:
                self.waited.append(took_s)
            time.sleep(0.01)  # between two looks at an exchange in another process

    def until_sent(self):
        """Return when an order has arrived whose answer is held back."""
        self.exchange.order("fault", name="delay_answer", seconds=200, path="/api/v3/order", method="POST", times=0)
        known, end_s = len(self.books()["orders"]), time.monotonic() + LIVE_S / 3
        while len(self.books()["orders"]) == known and time.monotonic() < end_s:
            time.sleep(0.005)  # as above; where none comes the life ends all the same
        self.exchange.order("clear")

    def settle(self):
        """Live a last life that ends all orders, and return its books."""
        process, line = self.begin(settle=True)
        try:
            told = self.hear(line, "settled", time.monotonic() + 2 * LIVE_S)
            process.join(LIVE_S)
            assert told is not None, "it did not settle"
            assert process.exitcode == 0
            return json.loads(told)
        finally:
            process.kill()
            process.join()
            line.close()

    # What there is

    def books(self):
        return self.exchange.order("books", api_key=API_KEY)

    def rows(self, query):
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=10)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(query).fetchall()

    def unprotected(self):
        """Brackets of which something is entered that no order at the exchange takes out again."""
        if not self.journal.exists():
            return set()
        intents, links = self.rows("SELECT client_id, run, ref FROM intents"), self.rows("SELECT * FROM links")
        there = {order["client_id"]: order for order in self.books()["orders"]}
        legs = defaultdict(list)
        for row in intents:
            if row["client_id"] in there:
                legs[row["run"], row["ref"]].append(there[row["client_id"]])
        found = set()
        parents = {(row["run"], row["ref"]): row for row in links if row["role"] == "parent"}
        for key, row in parents.items():
            exits = [each for each in links if (each["bond_run"], each["bond"]) == key and each["role"] != "parent"]
            out = [order for each in exits for order in legs[each["run"], each["ref"]]]
            rest = sum((net(order) for order in legs[key]), Decimal(0)) - sum(
                (-net(order) for order in out), Decimal(0)
            )
            rest = rest // LOT * LOT
            # The two of a list exclude each other.
            locked = max(
                (Decimal(order["remaining"]) for order in out if order["status"] in WORKING), default=Decimal(0)
            )
            price = Decimal(repr(json.loads(row["asked"])["price"]))
            # What is worth too little cannot be sold.
            if rest * price > Decimal("5.1") and locked != rest:
                found.add(f"order {key}: {locked} of {rest} {row['symbol']}")
        return {each.split(":")[0] for each in found}


def net(order):
    """What an order has brought of its base, fees taken."""
    base = order["symbol"].removesuffix("USDT")
    size = sum((Decimal(qty) for _, qty, *_ in order["fills"]), Decimal(0))
    fees = sum((Decimal(fee) for _, _, _, fee, coin, _ in order["fills"] if coin == base), Decimal(0))
    return (size if order["side"] == "BUY" else -size) - fees


def differences(lives, told):
    """Yield what is not as the exchange has it."""
    books = lives.books()
    intents = {row["client_id"]: row for row in lives.rows("SELECT * FROM intents")}
    states, fills = defaultdict(list), defaultdict(list)
    for row in lives.rows("SELECT * FROM states ORDER BY id"):
        states[row["client_id"]].append(row["status"])
    for row in lives.rows("SELECT * FROM fills WHERE size <> '0' ORDER BY id"):
        fills[row["client_id"]].append((row["trade_id"], abs(Decimal(row["size"])), Decimal(row["price"])))
    accepted = Counter(order["client_id"] for order in books["orders"])
    yield from (f"{client_id} was accepted {count} times" for client_id, count in accepted.items() if count > 1)
    yield from (f"{client_id} was sent, and nobody intended it" for client_id in accepted.keys() - intents.keys())
    ends = {"FILLED": "Completed", "CANCELED": "Canceled", "EXPIRED": "Expired"}
    there = {order["client_id"]: order for order in books["orders"]}
    for client_id in intents:
        said = states[client_id][-1:]
        order = there.get(client_id)
        if order is None:
            if said not in (["Rejected"], ["Margin"]):
                yield f"{client_id} is not at the exchange, and was told as {said}"
            continue
        if said != [ends.get(order["status"])]:
            yield f"{client_id} is {order['status']} at the exchange, and was told as {said}"
        traded = {(str(number), Decimal(qty), Decimal(price)) for number, qty, price, *_ in order["fills"]}
        if traded != set(fills[client_id]) or len(traded) != len(fills[client_id]):
            yield f"{client_id} has the fills {traded}, and {fills[client_id]} were counted"
    for name, amount in told["amounts"].items():
        if Decimal(amount) != Decimal(books["balances"][name]):
            yield f"{books['balances'][name]} {name} are at the exchange, and {amount} in the books"
    for symbol, size in told["positions"].items():
        brought = sum(
            (net(order) for order in books["orders"] if order["symbol"] == symbol.replace("/", "")), Decimal(0)
        )
        if Decimal(size) != brought // LOT * LOT:
            yield f"{brought} {symbol} were brought, and the position is {size}"


def play(tmp_path, seed, kills):
    with Apart(
        MARKETS.values(),
        seed=seed,
        speed=SPEED,
        balances=",".join(f"{k}:{v}" for k, v in OPENING.items()),
        latency_ms=20,
    ) as exchange:
        lives = Lives(exchange, tmp_path / "journal.sqlite", seed)
        hows = list(kills)
        lives.rng.shuffle(hows)
        # There must be something to be lost.
        hows.sort(key=lambda how: how != "random")
        wrong = []
        try:
            for how in hows:
                lives.kill(how)
            told = lives.settle()
            wrong += differences(lives, told)
        except AssertionError as error:
            wrong.append(str(error))
        books = lives.books()
        counts = Counter(order["status"] for order in books["orders"])
        fills = sum(len(order["fills"]) for order in books["orders"])
        longest_s = max(lives.waited, default=0.0)
        print(
            f"seed {seed}: {len(hows)} kills, {dict(counts)}, {fills} fills, longest without an exit {longest_s:.2f} s"
        )
        if wrong:
            print("\n".join([*lives.said, *wrong]))
        assert not wrong
        return books


def test_killed_ten_times(tmp_path):
    books = play(tmp_path, 1, [*POINTS, "between send and answer", "random"])
    assert len(books["orders"]) > 20


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(11, 21))
def test_killed_a_hundred_times(tmp_path, seed):
    play(tmp_path, seed, [*POINTS, "between send and answer", "random"])

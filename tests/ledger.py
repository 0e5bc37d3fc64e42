"""The exchange's books against ours, item by item, and what happened in a run in the order in which it did."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from ccxtbt.livedesk import LiveDesk
from ccxtbt.sim.orders import Fill, Order
from ccxtbt.sim.server import API_KEY, SimServer
from ccxtbt.trading.courier import Courier
from ccxtbt.trading.reports import OrderFact
from planned import TERMINAL
from troubles import SPOT, Venue, tap


class Diary:
    """What happened, by the exchange's clock: intents, cancels, faults, requests, reports, facts, notifications."""

    def __init__(self, server: SimServer, patch: Any, venue: Venue = SPOT) -> None:
        self._server = server
        self._lines: list[tuple[int, str, str]] = []
        tap(server.faults, lambda event: self.note("report", _report(event)), venue)
        send, cancel, receive, notify = Courier.send, Courier.cancel, LiveDesk.receive, LiveDesk._notify

        def sends(courier: Any, *intents: Any, **after: Any) -> None:
            for intent in intents:
                asked, listed = intent.request, " of a list" * (len(intents) > 1)
                said = f"{asked.client_id} is order {intent.ref}, leg {intent.leg}{listed}: {asked.arguments()[:5]}"
                self.note("intent", said)
            send(courier, *intents, **after)

        def cancels(courier: Any, client_id: str, symbol: str, list_id: str) -> None:
            self.note("cancel", f"{client_id} {symbol} {list_id}")
            cancel(courier, client_id, symbol, list_id)

        def receives(desk: Any, item: Any) -> None:
            if not isinstance(item, dict):
                self.note("fact", str(replace(item, raw=None) if isinstance(item, OrderFact) else item))
            receive(desk, item)

        def notifies(desk: Any, order: Any) -> None:
            said = f"order {order.ref} {order.getstatusname()} {order.executed.size} of {order.created.size}"
            self.note("notification", f"{said} {order.info.client_id or ''} {order.info.reason or ''}")
            notify(desk, order)

        patch.setattr(Courier, "send", sends)
        patch.setattr(Courier, "cancel", cancels)
        patch.setattr(LiveDesk, "receive", receives)
        patch.setattr(LiveDesk, "_notify", notifies)

    def note(self, kind: str, text: str) -> None:
        """Write down what has just happened; from any thread."""
        self._lines.append((self._server.clock.now_ms(), kind, text))

    def lines(self, whose: Iterable[str] = ()) -> list[str]:
        """Return all that happened, or that which tells of some orders ('order 7'), client ids or coins."""
        wanted = set(whose)
        wanted |= {
            said.split()[0]
            for _, kind, said in self._lines
            if kind == "intent" and said.split(" is ")[1].split(",")[0] in wanted
        }
        find = re.compile("|".join(rf"\b{re.escape(each)}\b" for each in wanted))
        told = self._lines + [(fired.now_ms, "fault", f"{fired.action}: {fired.what}") for fired in self._faults()]
        told += [
            (each.at_ms, "request", f"{each.method} {each.path} {each.status} {each.params.split('&timestamp')[0]}")
            for each in list(self._server.requests)
            if "order" in each.path.lower() or "Trades" in each.path
        ]
        began_ms = min((at_ms for at_ms, _, _ in told), default=0)
        return [
            f"{(at_ms - began_ms) / 1000:9.3f} {kind:<12} {text}"
            for at_ms, kind, text in sorted(told, key=lambda line: line[0])
            if find.search(text)
        ]

    def _faults(self) -> list[Any]:
        return [fired for fired in self._server.faults.log if not fired.action.endswith("tap")]


def _report(event: Any) -> str:
    own = event.get("C") or event["c"]
    return f"{own} {event['s']} {event['x']} {event['X']} order {event['i']} trade {event['t']} filled {event['z']}"


def _signed(fill: Fill) -> Decimal:
    return fill.qty if fill.is_buyer else -fill.qty


class Ledger:
    """One finished run, held against its exchange.

    Parameters
    ----------
    server : SimServer
        The exchange, still running.
    watcher : Watcher
        What the strategy was told.
    broker : CCXTBroker
        Its books.
    made : sequence of backtrader.Order
        What the strategy ordered.
    journal : Path
        The run's journal, closed.
    opening : mapping
        What the account held at first, by currency.
    venue : Venue
        On which of the simulator's exchanges.
    """

    def __init__(
        self,
        server: SimServer,
        watcher: Any,
        broker: Any,
        made: list[Any],
        journal: Path,
        opening: dict[str, Any],
        venue: Venue = SPOT,
    ) -> None:
        self._server, self._watcher, self._broker, self._made, self._venue = server, watcher, broker, made, venue
        self._exchange = venue.exchange(server)
        self._account = self._exchange.account(API_KEY)
        self._opening = {name: Decimal(amount) for name, amount in opening.items()}
        with closing(sqlite3.connect(journal)) as db:
            db.row_factory = sqlite3.Row
            self._intents = {row["client_id"]: row for row in db.execute("SELECT * FROM intents")}
            self._states = {row["client_id"]: row for row in db.execute("SELECT * FROM states ORDER BY id")}
            self._booked: dict[str, list[Any]] = defaultdict(list)
            for row in db.execute("SELECT * FROM fills ORDER BY id"):
                self._booked[row["client_id"]].append(row)
        self._there: dict[str, list[Order]] = defaultdict(list)
        for order in server.call(lambda: list(self._exchange.orders)):
            self._there[order.client_id].append(order)
        # Conditional orders of contracts live apart, and become one of the others under the same id.
        self._waited: dict[str, list[Any]] = defaultdict(list)
        for algo in server.call(lambda: list(self._exchange.algos)) if venue.contracts else ():
            self._waited[algo.client_id].append(algo)

    def differences(self) -> Iterator[tuple[str, str]]:
        """Yield each difference as (the order's ref, client id or coin, a sentence)."""
        yield from self._of_exchange()
        for client_id in self._intents:
            yield from self._of_intent(client_id)
        for order in self._made:
            yield from self._of_order(order)
        yield from (
            contracts_differ(self._server, self._watcher, self._broker) if self._venue.contracts else self._of_money()
        )

    def _of_exchange(self) -> Iterator[tuple[str, str]]:
        for client_id, orders in self._there.items():
            if client_id not in self._intents:
                yield client_id, "is at the exchange, and nobody intended it"
            if len(orders) > 1:
                yield client_id, f"was accepted {len(orders)} times"
            if any(order.is_open for order in orders):
                yield client_id, "is still open at the exchange"
        for client_id, waited in self._waited.items():
            if client_id not in self._intents or len(waited) > 1:
                yield client_id, f"waited {len(waited)} times for its trigger, intended or not"
            if waited[0].status in {"NEW", "TRIGGERING"}:
                yield client_id, "still waits for its trigger at the exchange"

    def _of_intent(self, client_id: str) -> Iterator[tuple[str, str]]:
        """One order at the exchange: its fills, one by one, and how it ended."""
        there = self._there.get(client_id, [])
        told = self._states.get(client_id)
        if told is None:
            yield client_id, "was sent, and nothing was told of it"
            return
        if not there:
            waited = self._waited.get(client_id)
            ends = {"CANCELED": {"Canceled"}, "EXPIRED": {"Expired"}} if waited else {}
            if told["status"] not in ends.get(waited[0].status if waited else "", {"Rejected", "Margin"}):
                yield client_id, f"is not at the exchange, and was told as {told['status']}"
            return
        order = there[0]
        ends = {"FILLED": {"Completed"}, "CANCELED": {"Canceled"}, "EXPIRED": {"Expired"}}
        if told["status"] not in ends.get(order.status, set()):
            yield client_id, f"ended as {order.status}, and was told as {told['status']}"
        fills = {
            str(fill.trade_id): (_signed(fill), fill.price, fill.commission, fill.commission_asset)
            for fill in order.fills
        }
        booked = {
            row["trade_id"]: (
                *(Decimal(row[key] or "NaN") for key in ("size", "price", "fee_cost")),
                row["fee_currency"],
            )
            for row in self._booked[client_id]
        }
        if fills != booked:
            yield client_id, f"has the fills {fills}, and {booked} were booked"

    def _of_order(self, order: Any) -> Iterator[tuple[str, str]]:
        """One order of the strategy, of one leg or several: what it was told, and what its figures are."""
        ref = f"order {order.ref}"
        told = [seen.getstatusname() for seen in self._watcher.orders if seen.ref == order.ref]
        ends = Counter(status for status in told if status in TERMINAL)
        if not ends or len(ends) > 1 or told[-1] not in TERMINAL:
            yield ref, f"was told to have ended as {dict(ends)}: {told}"
        if any(status in TERMINAL for status in told[: -sum(ends.values())]):
            yield ref, f"went on after its end: {told}"
        legs = [client_id for client_id, row in self._intents.items() if row["ref"] == order.ref]
        fills = [fill for leg in legs for each in self._there.get(leg, []) for fill in each.fills]
        if sorted(str(fill.trade_id) for fill in fills) != sorted(order.executed_fills):
            yield ref, f"has the fills {[fill.trade_id for fill in fills]}, and was told {order.executed_fills}"
        size = sum((_signed(fill) for fill in fills), Decimal(0))
        if Decimal(repr(float(order.executed.size))) != size:
            yield ref, f"has traded {size}, and its executed.size is {order.executed.size!r}"
        fee = sum(fill.commission * (1 if fill.commission_asset == "USDT" else fill.price) for fill in fills)
        if abs(Decimal(order.executed.comm) - fee) > Decimal("1e-9"):
            yield ref, f"has paid fees of {fee}, and its executed.comm is {order.executed.comm}"

    def _of_money(self) -> Iterator[tuple[str, str]]:
        """Each coin, to the last unit, and each position, to the last lot."""
        for name, balance in self._account.balances.items():
            if balance.locked:
                yield name, f"{balance.locked} is locked, and no order is open"
            if self._broker.amount(name) != balance.total:
                yield name, f"{balance.total} is at the exchange, and {self._broker.amount(name)} in the books"
        for data in self._watcher.datas:
            spec = self._exchange.markets[data.p.dataname.replace("/", "")].spec
            brought = self._account.balance(spec.base).total - self._opening.get(spec.base, Decimal(0))
            # What makes no whole lot is nothing that a strategy can hold.
            lots = brought // spec.step_size * spec.step_size
            held = Decimal(repr(float(self._broker.getposition(data).size)))
            if held != lots:
                yield spec.base, f"{lots} was bought and is left, and the position is {held}"
        if self._broker.getcash() != float(self._account.balance("USDT").total):
            yield "USDT", f"is {self._account.balance('USDT').total}, and getcash() says {self._broker.getcash()!r}"


def contracts_differ(server: SimServer, watcher: Any, broker: Any) -> Iterator[tuple[str, str]]:
    """Yield how wallet, funding and positions differ: the wallet to the last unit, and each position's mean price."""
    return iter(server.call(lambda: list(_of_contracts(server.contracts, watcher, broker))))


def _of_contracts(exchange: Any, watcher: Any, broker: Any) -> Iterator[tuple[str, str]]:
    account = exchange.account(API_KEY)
    wallet = exchange.books.wallet(account)
    if broker.amount("USDT") != wallet or broker.getcash() != float(wallet):
        yield "USDT", f"{wallet} is in the wallet, and {broker.amount('USDT')} in the books"
    incomes = exchange.books.incomes(account)
    paid = sum((income.amount for income in incomes if income.kind == "FUNDING_FEE"), Decimal(0))
    told = sum((apart.payment.amount for apart in broker.apart if apart.payment), Decimal(0))
    if paid != told:
        yield "USDT", f"funding came to {paid}, and {told} was told"
    for apart in broker.apart:
        if apart.payment is None:
            yield "USDT", f"nobody else traded or paid, and it was told: {apart}"
    for data in watcher.datas:
        symbol = data.p.dataname.split(":")[0].replace("/", "")
        there, ours = exchange.books.position(account, symbol), broker.getposition(data)
        if (Decimal(repr(float(ours.size))), ours.price) != (there.amount, float(there.entry)):
            yield symbol, f"{there.amount} at {there.entry} is the position, and the books say {ours.size} {ours.price}"

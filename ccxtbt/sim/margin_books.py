"""The books of accounts that trade perpetual contracts: positions, margin, realised profit and funding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from ccxtbt.sim.account import Account
from ccxtbt.sim.books import Settlement
from ccxtbt.sim.desk import Desk, Offer, quote_of
from ccxtbt.sim.events import MarginEvent
from ccxtbt.sim.orders import Order, Reject
from ccxtbt.sim.spec import UNIT

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Bracket:
    """What a position worth at least `floor` needs: the share of its worth, less `cum`, and the highest leverage."""

    floor: int
    cap: int
    max_leverage: int
    ratio: Decimal
    cum: Decimal


def _brackets(*rows: tuple[int, int, int, str]) -> tuple[Bracket, ...]:
    """Work out the amounts that make the maintenance margin go on without a step from bracket to bracket."""
    made: list[Bracket] = []
    for floor, cap, leverage, text in rows:
        ratio = Decimal(text)
        cum = made[-1].cum + floor * (ratio - made[-1].ratio) if made else _ZERO
        made.append(Bracket(floor, cap, leverage, ratio, cum))
    return tuple(made)


#: One table for all contracts.
BRACKETS = _brackets(
    (0, 50_000, 125, "0.004"),
    (50_000, 600_000, 100, "0.005"),
    (600_000, 3_000_000, 75, "0.0065"),
    (3_000_000, 12_000_000, 50, "0.01"),
    (12_000_000, 70_000_000, 25, "0.02"),
    (70_000_000, 500_000_000, 20, "0.025"),
)


def maintenance_of(notional: Decimal) -> tuple[Bracket, Decimal]:
    """Return a position's bracket and maintenance margin."""
    bracket = next(each for each in reversed(BRACKETS) if abs(notional) >= each.floor)
    return bracket, abs(notional) * bracket.ratio - bracket.cum


@dataclass(slots=True, eq=False)
class Position:
    """What an account holds of a contract, and how.

    Attributes
    ----------
    amount : Decimal
        Negative for a short position.
    cost : Decimal
        What the amount was worth when it was opened, with its sign; `entry` is their quotient.
    wallet : Decimal
        The part of the account's wallet that stands for an isolated position; 0 for a crossed one.
    """

    symbol: str
    leverage: int = 20
    isolated: bool = False
    amount: Decimal = _ZERO
    cost: Decimal = _ZERO
    wallet: Decimal = _ZERO
    updated_ms: int = 0

    @property
    def entry(self) -> Decimal:
        """Average price at which the position was opened; 0 without one."""
        return (self.cost / self.amount).quantize(UNIT) if self.amount else _ZERO


@dataclass(frozen=True, slots=True)
class Income:
    """A change of a wallet, as ``income`` lists it."""

    symbol: str
    kind: str
    amount: Decimal
    at_ms: int
    tran_id: int
    trade_id: str


class MarginBooks:
    """Wallets and positions of all accounts of a futures exchange whose contracts are worth one coin each.

    One-way mode, one margin coin (each contract's quote coin is taken for the same), wallets as `Balance.free` of that
    coin. Simplified against Binance: the mark price is the last price; an order needs the margin of what it would open
    at its price, orders of both sides add up; an isolated position's part of the wallet is its initial margin, and
    profit, fees and funding go through the whole wallet; a liquidation sells at the market without a fee of its own,
    and what a wallet is then below 0 is made good. Every amount is exact: wallets are the sums of their incomes.

    Parameters
    ----------
    desks : mapping of str to Desk
        By symbol.
    maker_fee, taker_fee : Decimal
        Shares of what a fill is worth.

    Attributes
    ----------
    hedged : set of Account
        Accounts that say that they are in hedge mode; no order of theirs is taken.
    """

    fee_coin: str | None = None
    fee_coin_discount = _ZERO

    def __init__(self, desks: Mapping[str, Desk], maker_fee: Decimal, taker_fee: Decimal) -> None:
        self.maker_fee = maker_fee
        self.taker_fee = taker_fee
        self.coin = next(iter(desks.values())).market.spec.quote
        self._desks = desks
        self._positions: dict[Account, dict[str, Position]] = {}
        self._incomes: dict[Account, list[Income]] = {}
        self._numbers = 0
        self._now_ms = 0
        self._changed: dict[Account, dict[str, None]] = {}
        self.hedged: set[Account] = set()

    # Positions and margin

    def position(self, account: Account, symbol: str) -> Position:
        """Return an account's position in a contract, an empty one if there was none."""
        return self._positions.setdefault(account, {}).setdefault(symbol, Position(symbol))

    def positions(self, account: Account) -> list[Position]:
        """Return all positions of an account that are not empty."""
        return [position for position in self._positions.get(account, {}).values() if position.amount]

    def holders(self, symbol: str) -> list[Account]:
        """Return who holds a contract."""
        return [
            account
            for account, positions in self._positions.items()
            if symbol in positions and positions[symbol].amount
        ]

    def incomes(self, account: Account) -> list[Income]:
        """Return every change of an account's wallet, oldest first."""
        return self._incomes.get(account, [])

    def notional(self, position: Position) -> Decimal:
        """Return what a position is worth now, with its sign."""
        return position.amount * (self._desks[position.symbol].last_price() or _ZERO)

    def unrealized(self, position: Position) -> Decimal:
        """Return a position's profit as of now."""
        return self.notional(position) - position.cost

    def wallet(self, account: Account) -> Decimal:
        """Return an account's wallet: what it has without open profit."""
        return account.balance(self.coin).free

    def cross_wallet(self, account: Account) -> Decimal:
        """Return the wallet less what stands for isolated positions."""
        return self.wallet(account) - sum((position.wallet for position in self.positions(account)), _ZERO)

    def initial_margin(self, position: Position) -> Decimal:
        """Return the margin that a position binds."""
        return (abs(self.notional(position)) / position.leverage).quantize(UNIT, ROUND_UP)

    def order_margin(self, account: Account, symbol: str | None = None) -> Decimal:
        """Return the margin that open orders bind, of a contract or of all."""
        desks = self._desks.values() if symbol is None else [self._desks[symbol]]
        mine = (order for desk in desks for order in desk.orders() if order.account is account)
        return sum((self._margin_of(order, order.remaining * order.price) for order in mine), _ZERO)

    def available(self, account: Account) -> Decimal:
        """Return what an account may bind by new orders."""
        left = self.cross_wallet(account) - self.order_margin(account)
        for position in self.positions(account):
            if not position.isolated:
                left += self.unrealized(position) - self.initial_margin(position)
        return max(left, _ZERO).quantize(UNIT, ROUND_DOWN)

    def _margin_of(self, order: Order, worth: Decimal) -> Decimal:
        """Return the margin of what an order would open rather than close."""
        position = self.position(order.account, order.symbol)
        if order.reduce_only or not order.remaining:
            return _ZERO
        opened = order.remaining
        if (position.amount > 0) == (order.side == "SELL"):
            opened = max(_ZERO, opened - abs(position.amount))
        return (worth * opened / order.remaining / position.leverage).quantize(UNIT, ROUND_UP)

    def liquidation_price(self, account: Account, position: Position) -> Decimal:
        """Return the price at which a position is liquidated if nothing else changes; 0 if there is none."""
        if not position.amount:
            return _ZERO
        bracket, _ = maintenance_of(self.notional(position))
        held = position.wallet
        if not position.isolated:
            others = [each for each in self.positions(account) if each is not position and not each.isolated]
            held = self.cross_wallet(account)
            held += sum((self.unrealized(each) - maintenance_of(self.notional(each))[1] for each in others), _ZERO)
        price = (held + bracket.cum - position.cost) / (abs(position.amount) * bracket.ratio - position.amount)
        return max(price, _ZERO).quantize(UNIT)

    def doomed(self, account: Account) -> list[Position]:
        """Return the positions whose margin does not suffice any more."""
        found, crossed = [], []
        left = self.cross_wallet(account)
        for position in self.positions(account):
            _, needed = maintenance_of(self.notional(position))
            if not position.isolated:
                crossed.append(position)
                left += self.unrealized(position) - needed
            elif position.wallet + self.unrealized(position) <= needed:
                found.append(position)
        return found + crossed if left <= 0 else found

    # What the engine asks

    def check(self, order: Order, takes: Iterable[tuple[Offer, Decimal]], needed: Decimal | None = None) -> None:
        """Refuse an order whose margin is not there (-2019)."""
        worth = order.price * order.orig_qty
        if order.type == "MARKET":
            worth = sum((quote_of(offer.price, qty) for offer, qty in takes), _ZERO)
        margin = self._margin_of(order, worth)
        fee = (worth * self.taker_fee).quantize(UNIT, ROUND_UP) if margin else _ZERO
        if margin + fee > self.available(order.account):
            raise Reject(-2019, "Margin is insufficient.")

    def budget(self, order: Order) -> Decimal:
        """Return what an account may bind; no order of a futures exchange is bounded by it."""
        return self.available(order.account)

    def lock(self, order: Order, needed: Decimal) -> None:
        """Do nothing: the margin of orders is worked out when it is asked for."""

    def settle(self, order: Order, price: Decimal, qty: Decimal, *, is_maker: bool) -> Settlement:
        """Book a fill: open, add to, reduce, close or turn a position."""
        account, position = order.account, self.position(order.account, order.symbol)
        sign = 1 if order.side == "BUY" else -1
        quote = quote_of(price, qty)
        self._now_ms = order.updated_ms
        closed = min(qty, abs(position.amount)) if position.amount * sign < 0 else _ZERO
        quote_closed = (quote * closed / qty).quantize(UNIT)
        realized = _ZERO
        if closed:
            share = closed / abs(position.amount)
            whole = closed == abs(position.amount)
            cost = position.cost if whole else (position.cost * share).quantize(UNIT)
            realized = -(sign * quote_closed + cost)
            position.cost -= cost
            position.wallet -= position.wallet if whole else (position.wallet * share).quantize(UNIT)
        position.amount += sign * qty
        position.cost += sign * (quote - quote_closed)
        if position.isolated:
            position.wallet += ((quote - quote_closed) / position.leverage).quantize(UNIT, ROUND_UP)
        position.updated_ms = order.updated_ms
        commission = (quote * (self.maker_fee if is_maker else self.taker_fee)).quantize(UNIT)
        if realized:
            self.earn(account, order.symbol, "REALIZED_PNL", realized, order.updated_ms)
        if commission:
            self.earn(account, order.symbol, "COMMISSION", -commission, order.updated_ms)
        self._changed.setdefault(account, {})[order.symbol] = None
        return Settlement(commission, self.coin, realized)

    def earn(self, account: Account, symbol: str, kind: str, amount: Decimal, now_ms: int) -> None:
        """Change an account's wallet and keep why."""
        self._numbers += 1
        account.deposit(self.coin, amount)
        self._incomes.setdefault(account, []).append(Income(symbol, kind, amount, now_ms, self._numbers, ""))

    def changes(self, now_ms: int) -> Iterator[MarginEvent]:
        """Yield the wallets and positions that fills changed since the last call, once each."""
        for account, symbols in self._changed.items():
            account.updated_ms = now_ms
            yield self.event(account, "ORDER", list(symbols), now_ms)
        self._changed.clear()

    def event(self, account: Account, reason: str, symbols: list[str], now_ms: int) -> MarginEvent:
        """Return an account's wallet and some of its positions as they are now."""
        rows = []
        for symbol in symbols:
            position = self.position(account, symbol)
            row = (symbol, position.amount, position.entry, self.unrealized(position), position.isolated)
            rows.append((*row, position.wallet))
        return MarginEvent(
            now_ms, account, reason, self.coin, self.wallet(account), self.cross_wallet(account), tuple(rows)
        )

    def pay_funding(self, account: Account, position: Position, rate: Decimal, now_ms: int) -> MarginEvent:
        """Let a position pay its funding, or have it."""
        amount = -(self.notional(position) * rate).quantize(UNIT)
        self.earn(account, position.symbol, "FUNDING_FEE", amount, now_ms)
        return self.event(account, "FUNDING_FEE", [position.symbol] if position.isolated else [], now_ms)

    # Settings

    def set_leverage(self, account: Account, symbol: str, leverage: int) -> Position:
        """Set a contract's leverage.

        Raises
        ------
        Reject
            -4028 for one that there is not, -4161 for less of an open isolated position, -2019 for too little margin.
        """
        position = self.position(account, symbol)
        bracket, _ = maintenance_of(self.notional(position))
        if not 1 <= leverage <= bracket.max_leverage:
            raise Reject(-4028, f"Leverage {leverage} is not valid")
        if position.isolated and position.amount and leverage < position.leverage:
            raise Reject(-4161, "Leverage reduction is not supported in Isolated Margin Mode with open positions.")
        before, position.leverage = position.leverage, leverage
        if position.amount and leverage < before and not self.available(account):
            position.leverage = before
            raise Reject(-2019, "Margin is insufficient.")
        return position

    def set_isolated(self, account: Account, symbol: str, *, isolated: bool) -> None:
        """Set how a contract's margin is kept.

        Raises
        ------
        Reject
            -4046 if it is so already, -4047 with open orders, -4048 with a position.
        """
        position = self.position(account, symbol)
        if position.isolated is isolated:
            raise Reject(-4046, "No need to change margin type.")
        if any(order.account is account for order in self._desks[symbol].orders()):
            raise Reject(-4047, "Margin type cannot be changed if there exists open orders.")
        if position.amount:
            raise Reject(-4048, "Margin type cannot be changed if there exists position.")
        position.isolated = isolated

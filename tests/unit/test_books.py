"""Positions and cash against the exchange's own arithmetic and against backtrader's position."""

from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

import pytest
from backtrader.position import Position
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.trading.books import Book
from ccxtbt.trading.states import Amend, Fill

D = Decimal
LOT = D("0.001")


def rate(currency, quote):
    return {("BNB", "USDT"): D(500)}.get((currency, quote))


@pytest.fixture
def book() -> Book:
    return Book("BTC", "USDT", LOT)


def test_a_fee_in_quote_is_paid_in_cash(book):
    booking = book.fill(Fill(D("0.5"), D(100), D("0.05"), "USDT"), rate)
    assert (booking.opened, booking.closed, booking.psize, booking.pprice) == (D("0.5"), 0, D("0.5"), 100)
    assert (booking.openedcomm, booking.closedcomm, booking.openedvalue) == (D("0.05"), 0, 50)
    assert book.flows == {"BTC": D("0.5"), "USDT": D("-50.05")}


def test_a_fee_in_base_reduces_the_position_and_leaves_dust_apart(book):
    booking = book.fill(Fill(D(1), D(100), D("0.00075"), "BTC"), rate)
    assert (booking.size, booking.opened, booking.openedcomm) == (1, D("0.999"), D("0.075"))
    assert (book.size, book.held, book.dust) == (D("0.999"), D("0.99925"), D("0.00025"))
    assert book.flows == {"BTC": D("0.99925"), "USDT": D(-100)}


def test_the_position_closes_although_dust_is_left(book):
    book.fill(Fill(D(1), D(100), D("0.00075"), "BTC"), rate)
    booking = book.fill(Fill(D("-0.999"), D(110), D("0.1"), "USDT"), rate)
    assert (booking.closed, booking.opened, booking.psize, booking.pprice) == (D("-0.999"), 0, 0, 0)
    assert (booking.pnl, booking.closedcomm, booking.closedvalue) == (D("9.99"), D("0.1"), D("99.9"))
    assert book.dust == book.held == D("0.00025")


def test_dust_joins_the_position_once_it_makes_a_lot(book):
    for _ in range(4):
        book.fill(Fill(D(1), D(100), D("0.00075"), "BTC"), rate)
    assert (book.size, book.dust) == (D("3.997"), 0)


def test_a_fee_in_a_third_coin_is_priced_and_where_it_cannot_be_it_is_told(book):
    booking = book.fill(Fill(D(1), D(100), D("0.0002"), "BNB"), rate)
    assert booking.openedcomm == D("0.1")
    assert book.flows["BNB"] == D("-0.0002")
    booking = book.fill(Fill(D(1), D(100), D("0.5"), "XYZ"), rate)
    assert booking.openedcomm == 0
    assert book.flows["XYZ"] == D("-0.5")
    assert book.unpriced == {"XYZ": D("0.5")}


def test_a_reversal_splits_its_fee_by_size(book):
    book.fill(Fill(D(1), D(100)), rate)
    booking = book.fill(Fill(D(-4), D(110), D("0.4"), "USDT"), rate)
    assert (booking.closed, booking.opened, booking.psize, booking.pprice) == (-1, -3, -3, 110)
    assert (booking.closedcomm, booking.openedcomm, booking.pnl) == (D("0.1"), D("0.3"), 10)


def test_what_an_earlier_run_has_left_may_be_the_start(book):
    book.seed(D("0.99925"), D(90))
    standing = book.standing()
    assert (standing.opened, standing.openedvalue, standing.psize, standing.pprice) == (
        book.size,
        D("89.91"),
        book.size,
        90,
    )
    assert (book.dust, book.flows) == (D("0.00025"), {})
    assert book.fill(Fill(D("-0.999"), D(100)), rate).pnl == D("9.99")


def test_an_amended_fill_moves_cash_and_fees(book):
    book.fill(Fill(D(1), D(100)), rate)
    assert book.amend(Amend(D(2), D("0.001"), "BTC"), 1, D(102), rate) == D("0.102")
    assert book.flows == {"BTC": D("0.999"), "USDT": D(-102)}
    assert book.held == D("0.999")
    assert book.amend(Amend(D(2)), -1, D(102), rate) == 0
    assert book.flows["USDT"] == D(-100)


@st.composite
def trades(draw):
    fills = []
    for _ in range(draw(st.integers(1, 12))):
        size = D(draw(st.integers(1, 5_000)) * draw(st.sampled_from([1, -1]))) / 1000
        price = D(draw(st.integers(1, 10**7))) / 100
        currency = draw(st.sampled_from(["USDT", "BTC", "BNB", None]))
        unit = {"USDT": D("0.01"), "BTC": D("1E-8"), "BNB": D("1E-8"), None: D(0)}[currency]
        fee = unit * draw(st.integers(-100, 10**5))
        if currency == "BTC" and size < 0:
            fee = D(0)
        fills.append(Fill(size, price, fee if currency else None, currency))
    return fills


@given(fills=trades())
def test_the_books_equal_the_exchanges_to_the_last_unit(fills):
    book = Book("BTC", "USDT", LOT)
    balances = {"BTC": Fraction(0), "USDT": Fraction(0), "BNB": Fraction(0)}
    pnl = comm = dust_cost = Fraction(0)
    change = D(0)
    for fill in fills:
        balances["BTC"] += Fraction(fill.size)
        balances["USDT"] -= Fraction(fill.size) * Fraction(fill.price)
        if fill.fee_currency:
            balances[fill.fee_currency] -= Fraction(fill.fee_cost)
        dust = book.dust
        booking = book.fill(fill, rate)
        change += booking.opened + booking.closed
        pnl += Fraction(booking.pnl)
        comm += Fraction(booking.openedcomm) + Fraction(booking.closedcomm)
        dust_cost += Fraction(book.dust - dust) * Fraction(fill.price)
        assert {name: Fraction(amount) for name, amount in book.flows.items()} == {
            name: amount for name, amount in balances.items() if name in book.flows
        }
        assert Fraction(book.held) == balances["BTC"]
        assert book.size == book.held.quantize(LOT, rounding=ROUND_DOWN) == change == booking.psize
        assert abs(book.dust) < LOT
    # Cash and position at the last price are what was won, less fees, less what dust cost.
    last = Fraction(fills[-1].price)
    open_profit = Fraction(book.size) * (last - Fraction(book.price))
    worth = balances["USDT"] + balances["BNB"] * 500 + Fraction(book.size) * last
    assert float(worth) == pytest.approx(float(pnl + open_profit - comm - dust_cost), abs=1e-9)


@given(fills=trades())
def test_the_split_is_backtraders_own(fills):
    book, position = Book("BTC", "USDT", LOT), Position()
    position.size = D(0)
    for fill in fills:
        plain = Fill(fill.size, fill.price)
        booking = book.fill(plain, rate)
        size, price, opened, closed = position.update(fill.size, fill.price)
        assert (booking.psize, booking.opened, booking.closed) == (size, opened, closed)
        assert float(booking.pprice) == pytest.approx(float(price))
        position.price = D(price)

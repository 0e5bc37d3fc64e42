"""What a ThreadedBroker knows of orders: each fact once, and what does not fit together is asked for."""

from decimal import Decimal

import pytest

from ccxtbt.compat import threadedbroker
from ccxtbt.compat.threadedbroker import ASK_TIMES, Watched
from ccxtbt.trading.reports import FillFact, OrderFact

D = Decimal


def fill(trade_id, amount=1, order_id="7"):
    return FillFact(order_id, None, trade_id, 0, D(amount), D(100), symbol="BTC/USDT")


def word(status, filled, order_id="7"):
    return OrderFact(None, order_id, status=status, filled=D(filled), symbol="BTC/USDT")


@pytest.fixture
def watched():
    return Watched()


def test_a_fact_that_comes_again_is_not_new(watched):
    assert [watched.take(fact) for fact in (fill("1"), fill("1"), fill("2"))] == [True, False, True]
    words = word("open", 0), word("open", 0), word("open", 1), word("closed", 2), word("closed", 2)
    assert [watched.take(fact) for fact in words] == [True, False, True, True, False]
    # Without ids nothing can be known again.
    assert [watched.take(fact) for fact in (fill(None), fill(None))] == [True, True]
    nameless = OrderFact("mine", None, status="rejected")
    assert [watched.take(nameless), watched.take(nameless)] == [True, True]


def test_what_is_open_is_known_until_it_ends(watched):
    watched.take(word("open", 0))
    watched.take(word("open", 1, "8"))
    assert list(watched.open) == ["7", "8"]
    watched.take(word("canceled", 0))
    assert list(watched.open) == ["8"]


@pytest.mark.parametrize("fact", [fill("1"), word("closed", 1)])
def test_half_of_the_news_of_a_fill_is_asked_for_a_few_times(watched, fact):
    watched.take(fact)
    # The other half may be on its way.
    assert watched.doubtful() == []
    for _ in range(ASK_TIMES):
        (asked,) = watched.doubtful()
        assert (asked.order_id, asked.symbol) == ("7", "BTC/USDT")
    assert watched.doubtful() == []


def test_the_other_half_ends_the_doubt(watched):
    watched.take(fill("1"))
    watched.take(word("open", 1))
    assert watched.doubtful() == watched.doubtful() == []
    # Nothing is in doubt of fills that were told before it began.
    watched.take(word("open", 3, "8"))
    watched.begin()
    assert watched.doubtful() == watched.doubtful() == []
    watched.take(fill("9", 1, "8"))
    watched.doubtful()
    assert [asked.order_id for asked in watched.doubtful()] == ["8"]


def test_only_the_last_are_remembered(watched, monkeypatch):
    monkeypatch.setattr(threadedbroker, "REMEMBERED", 3)
    for number in range(5):
        watched.take(fill(str(number), 1, str(number)))
    assert not watched.take(fill("4", 1, "4"))
    assert watched.take(fill("0", 1, "0"))
    assert max(map(len, (watched._last, watched._filled, watched._fills))) == 3

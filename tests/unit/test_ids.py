"""Client order ids in each exchange's form, never the same twice."""

import uuid

import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.exchanges import NO_CLIENT_IDS, facts_of
from ccxtbt.exchange.facts import Facts
from ccxtbt.trading.ids import NONCE_BITS, ClientIds

LAST = 2**31


@pytest.mark.parametrize(
    ("exchange", "form"),
    [
        ("binance", r"bt[0-9a-z]+"),
        ("okx", r"[0-9a-z]{1,32}"),
        ("kraken", r"[0-9a-z]{1,18}"),
        ("gate", r"t-[0-9a-z]{1,26}"),
        ("hyperliquid", r"0x[0-9a-f]{32}"),
        ("bitfinex", r"[0-9]+"),
        ("an exchange that is in no table", r"[0-9a-z]{1,32}"),
    ],
)
@pytest.mark.parametrize("nonce", [1, 2**NONCE_BITS - 1])
def test_ids_have_the_form_that_their_exchange_takes(exchange, form, nonce):
    import re

    facts = facts_of(exchange)
    for first in (1, LAST):
        ids = ClientIds(facts, nonce, first)
        made = [ids.next()[1] for _ in range(100)]
        assert len(set(made)) == 100
        assert all(re.fullmatch(form, each) and len(each) <= facts.client_id_length for each in made)


def test_an_id_that_is_a_number_stays_below_45_bits():
    ids = ClientIds(facts_of("bitfinex"), 2**NONCE_BITS - 1, 1)
    assert 0 < int(ids.next()[1]) < 2**45


def test_a_uuid_is_one_and_holds_nonce_and_number():
    facts = facts_of("bitvavo")
    made = {ClientIds(facts, nonce, first).next()[1] for nonce in range(50) for first in range(1, 51)}
    assert len(made) == 2_500
    assert {uuid.UUID(each).version for each in made} == {8}


def test_runs_with_other_nonces_share_no_id():
    facts = facts_of("binance")
    one, two = ClientIds(facts, 2**49, 1), ClientIds(facts, 2**49 + 1, 1)
    assert not {one.next()[1] for _ in range(1_000)} & {two.next()[1] for _ in range(1_000)}


def test_an_id_that_is_too_long_is_refused_with_the_mend():
    with pytest.raises(ConfigError, match="longer than the 8 characters"):
        ClientIds(Facts(client_id_length=8), 2**NONCE_BITS - 1, 1).next()


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="client_id_form='roman'"):
        ClientIds(Facts(client_id_form="roman"), 1, 1)


def test_exchanges_without_client_ids_are_exchanges_of_ccxt():
    import ccxt

    assert set(ccxt.exchanges) >= NO_CLIENT_IDS
    assert {facts_of(name).client_id_param for name in NO_CLIENT_IDS} == {""}

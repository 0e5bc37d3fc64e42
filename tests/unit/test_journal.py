"""The journal on a real disk: what it keeps, who may have it, and what it says when it cannot write."""

import os
import resource
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest

import ccxtbt
from ccxtbt.errors import ConfigError
from ccxtbt.trading.journal import SCHEMA_VERSION, Intent, Journal, Link, LinkEnd, Told
from ccxtbt.trading.orders import Request
from ccxtbt.trading.states import Accepted, Amend, Completed, Fill, Submitted

D = Decimal
WAIT_S = 10.0


def intent(number, client_id=None, **params):
    params = {"clientOrderId": client_id or f"bt{number}", **params}
    request = Request(params["clientOrderId"], "BTC/USDT", "limit", "buy", D("0.10"), D("60000.5"), params)
    return Intent(number, request, ref=number, leg=0, tradeid=0, made_ms=1_700_000_000_000)


class Desk:
    """Opens journals on one file, and collects what they say."""

    def __init__(self, path):
        self.path = path
        self.notices = []
        self.journals = []

    def open(self, account="binance-abc"):
        journal = Journal(self.path, account, self.notices.append, lambda: 1_700_000_000_000)
        journal.open()
        self.journals.append(journal)
        return journal

    def kept(self, journal, *intents):
        """Hand intents over and return what each was told, in their order."""
        said, all_said = {}, threading.Event()

        def then(number, reason):
            said[number] = reason
            if len(said) == len(intents):
                all_said.set()

        for each in intents:
            journal.intend(each, lambda reason, number=each.number: then(number, reason))
        assert all_said.wait(WAIT_S)
        return [said[each.number] for each in intents]

    def rows(self, query):
        db = sqlite3.connect(self.path)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "journal.sqlite")
    yield made
    for journal in made.journals:
        journal.close()


def test_an_intent_is_on_disk_when_it_is_said_so(desk):
    journal = desk.open()
    assert desk.kept(journal, intent(1), intent(2)) == ["", ""]
    # Read by another connection, while the run goes on.
    assert desk.rows("SELECT number, client_id, symbol, side, amount, price FROM intents") == [
        (1, "bt1", "BTC/USDT", "buy", "0.1", "60000.5"),
        (2, "bt2", "BTC/USDT", "buy", "0.1", "60000.5"),
    ]


def test_what_was_told_and_filled_is_kept_once(desk):
    journal = desk.open()
    fill = Fill(D("0.04"), D(60_000), D("0.00004"), "BTC", 5, "t1")
    journal.note(Told("bt1", [Submitted(), Accepted("7", 4), fill], "7", D("0.04"), D(2_400)))
    journal.note(Told("bt1", [fill, Amend(D("0.5"), None, None, "t1"), Completed(6)], "7", D("0.1"), D("6000.5")))
    journal.note(Link(3, 1, "stop", "BTC/USDT", {"price": 59_000.0}))
    journal.note(LinkEnd(3, "Canceled"))
    journal.close()
    assert desk.rows("SELECT status, order_id, filled FROM states ORDER BY id") == [
        ("Accepted", "7", "0.04"),
        ("Completed", "7", "0.1"),
    ]
    assert desk.rows("SELECT trade_id, size, cost, fee_currency FROM fills ORDER BY id") == [
        ("t1", "0.04", "2400", "BTC"),
        ("t1", "0", "0.5", None),
    ]
    assert desk.rows("SELECT ref, bond, role, status FROM links") == [(3, 1, "stop", "Canceled")]
    assert desk.rows("SELECT ended_ms IS NULL FROM runs") == [(0,)]


def test_numbers_go_on_from_run_to_run_and_no_run_has_anothers_nonce(desk):
    first = desk.open()
    assert first.first == 1
    desk.kept(first, intent(1), intent(2))
    first.close()
    second = desk.open()
    assert second.first == 3
    assert second.nonce != first.nonce
    assert len(desk.rows("SELECT nonce FROM runs")) == 2


def test_a_client_id_of_an_earlier_run_is_refused_and_holds_up_no_other(desk):
    first = desk.open()
    desk.kept(first, intent(1, "mine"))
    first.close()
    again = desk.open()
    said = desk.kept(again, intent(2), intent(3, "mine"), intent(4))
    assert said[0] == said[2] == ""
    assert "in use" in said[1]
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,), (2,), (4,)]


def test_secrets_among_the_parameters_are_not_kept(desk):
    desk.kept(desk.open(), intent(1, tradePassword="hunter2", api_key="k123", postOnly=True))
    (kept,) = desk.rows("SELECT params FROM intents")[0]
    assert "postOnly" in kept
    # Not in the file, nor in what is not yet in the file.
    for path in desk.path.parent.iterdir():
        assert b"hunter2" not in path.read_bytes()
        assert b"k123" not in path.read_bytes()


def test_a_second_run_on_the_same_journal_is_refused(desk):
    desk.open()
    with pytest.raises(ConfigError, match="in use by another run"):
        desk.open()


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(desk):
    script = (
        "import sys, time; from pathlib import Path; from ccxtbt.trading.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), 'binance-abc', print, lambda: 0); journal.open()\n"
        "print('open', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(ccxtbt.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(desk.path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(ConfigError, match="in use by another run"):
                desk.open()
        finally:
            process.kill()
    assert desk.open().first == 1


def test_a_journal_of_another_account_is_refused(desk):
    desk.open().close()
    with pytest.raises(ConfigError, match="another account"):
        desk.open("binance-def")


def test_a_journal_of_a_newer_release_is_refused(desk):
    desk.open().close()
    db = sqlite3.connect(desk.path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(ConfigError, match="newer ccxtbt"):
        desk.open()


def test_a_damaged_file_is_named_and_left_as_it_is(desk):
    desk.path.write_bytes(b"no database" * 1_000)
    with pytest.raises(ConfigError, match=r"journal\.sqlite cannot be used .*no order is sent without it"):
        desk.open()
    assert desk.path.read_bytes() == b"no database" * 1_000


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        Desk(tmp_path / "file" / "journal.sqlite").open()


def test_a_full_disk_refuses_intents_keeps_the_rest_and_is_told_once(desk):
    journal = desk.open()
    desk.kept(journal, intent(1))
    # The system itself refuses each byte beyond the log's present end.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{desk.path}-wal").stat().st_size, hard))
    try:
        journal.note(Told("bt1", [Accepted("7", 4)], "7", D(0), D(0)))
        (second,), (third,) = desk.kept(journal, intent(2)), desk.kept(journal, intent(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in second
    assert "no order is sent without it" in third
    assert len(desk.notices) == 1
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,)]
    # With room again the next intent is kept, and what was owed too.
    assert desk.kept(journal, intent(4)) == [""]
    assert "written again" in desk.notices[-1]
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,), (4,)]
    assert desk.rows("SELECT status FROM states") == [("Accepted",)]


def test_many_intents_share_a_commit(desk):
    journal = desk.open()
    said = desk.kept(journal, *(intent(number) for number in range(1, 3_001)))
    assert not any(said)
    assert desk.rows("SELECT COUNT(*), MAX(number) FROM intents") == [(3_000, 3_000)]
    assert desk.rows("SELECT value FROM meta WHERE key = 'counter'") == [("3000",)]

"""The journal on a real disk: what it keeps, who may have it, and what it says when it cannot write."""

import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

import ccxtbt
from ccxtbt.errors import ConfigError
from ccxtbt.trading.journal import _MIGRATIONS, SCHEMA_VERSION, Intent, Journal, Kept, Link, LinkEnd, Told
from ccxtbt.trading.orders import Request
from ccxtbt.trading.states import Accepted, Amend, Completed, Fill, Submitted
from waiting import wait_until

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
def desk(tmp_path, monkeypatch):
    monkeypatch.setattr("ccxtbt.trading.journal.PROBE_S", 0.05)
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


@pytest.mark.parametrize(
    "odd",
    [
        replace(intent(2), tradeid=2**64),
        replace(intent(2), tradeid=(1, 2)),
        replace(intent(2), asked={"tradeid": 2**64}),
        intent(2, note=2**64),
        intent(2, note="\ud800"),
    ],
)
def test_an_intent_that_cannot_be_written_is_refused_and_holds_up_no_other(desk, odd):
    journal = desk.open()
    said = desk.kept(journal, intent(1), odd, intent(3))
    assert said[0] == said[2] == ""
    assert "cannot be kept in the journal" in said[1]
    assert desk.kept(journal, intent(4)) == [""]
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,), (3,), (4,)]


def test_a_record_that_cannot_be_written_is_logged_without_secrets(desk, caplog):
    journal = desk.open()
    secret = {"tradePassword": "hunter2"}
    desk.kept(journal, replace(intent(2, **secret), tradeid=2**64, asked={"params": secret}))
    journal.note(Link(3, 1, "stop", "BTC/USDT", {"params": secret, "note": 2**64}))
    journal.close()
    assert caplog.text.count("A record cannot be kept") == 2
    assert "bt2" in caplog.text
    assert "hunter2" not in caplog.text


def test_secrets_among_the_parameters_are_not_kept(desk):
    nested = {"auth": {"passphrase": "hunter2"}}
    desk.kept(desk.open(), intent(1, tradePassword="hunter2", api_key="k123", postOnly=True, nested=nested))
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


def schema_of(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_journal_of_an_older_release_is_brought_up_to_date(desk, tmp_path, version):
    with closing(sqlite3.connect(desk.path)) as db:
        for step in range(version):
            db.executescript(_MIGRATIONS[step])
        db.executescript(f"""
            PRAGMA user_version = {version};
            INSERT INTO meta VALUES ('account', 'binance-abc'), ('counter', '7'), ('nonce', '00000000000ab');
            INSERT INTO runs (nonce, began_ms) VALUES ('00000000000ab', 5);
            INSERT INTO intents
            VALUES (7, 'bt7', 1, 3, 0, 0, 'BTC/USDT', 'limit', 'buy', '0.1', '6', 0, '{{}}', NULL, 6);
            INSERT INTO states VALUES (NULL, 'bt7', 'Accepted', '99', '', '0', '0', 6);
        """)
    journal = desk.open()
    assert journal.first == 8
    # What it tells of the order is what was sent.
    (order,) = journal.past.orders
    assert (order.open, order.asked["exectype"], order.asked["size"], order.asked["price"]) == (True, "Limit", 0.1, 6.0)
    assert (order.legs[0].status, order.legs[0].order_id) == ("Accepted", "99")
    assert desk.kept(journal, intent(8)) == [""]
    journal.note(Kept({"seen": "[1]"}))
    journal.close()
    assert desk.rows("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert desk.rows("SELECT number, client_id FROM intents ORDER BY number") == [(7, "bt7"), (8, "bt8")]
    assert desk.rows("SELECT order_id FROM states") == [("99",)]
    assert desk.rows("SELECT * FROM state") == [("seen", "[1]")]
    Desk(tmp_path / "fresh.sqlite").open().close()
    assert schema_of(desk.path) == schema_of(tmp_path / "fresh.sqlite")


def refused(path):
    """Open a journal that cannot be used; return what is said."""
    with pytest.raises(ConfigError) as caught:
        Desk(path).open()
    assert str(path) in str(caught.value)
    assert "no order is sent without it" in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_no_database_is_named_and_left_as_it_is(desk):
    desk.path.write_bytes(b"no database" * 1_000)
    refused(desk.path)
    assert desk.path.read_bytes() == b"no database" * 1_000


def filled(desk, intents=200):
    """Write a journal of several pages, all of them in the file itself."""
    journal = desk.open()
    assert not any(desk.kept(journal, *(intent(number) for number in range(1, intents + 1))))
    journal.note(Kept({"seen": "[1]"}))
    journal.close()
    assert not Path(f"{desk.path}-wal").exists()
    return desk.path.read_bytes()


def test_a_damaged_head_is_named(desk):
    sound = filled(desk)
    desk.path.write_bytes(random.Random(1).randbytes(100) + sound[100:])
    refused(desk.path)


def test_a_file_that_was_cut_is_named(desk):
    sound = filled(desk)
    desk.path.write_bytes(sound[: len(sound) // 2])
    refused(desk.path)


def test_whatever_bytes_are_damaged_a_journal_is_refused_with_a_sentence_or_works(desk):
    sound, seen = filled(desk), {"refused": 0, "works": 0}
    for seed in range(40):
        rng = random.Random(seed)
        length = rng.choice((8, 64, 4_096))
        at = rng.randrange(100, len(sound) - length)
        desk.path.write_bytes(sound[:at] + rng.randbytes(length) + sound[at + length :])
        print(f"seed {seed}: {length} bytes at {at}")
        try:
            journal = desk.open()
        except ConfigError as error:
            said = str(error)
            seen["refused"] += 1
        else:
            # What SQLite cannot see at once it meets when it writes, and that is told like a full disk.
            (said,) = desk.kept(journal, intent(10_000))
            journal.close()
            seen["works"] += 1
        assert said == "" or "no order is sent without it" in said
        for left in desk.path.parent.glob("journal.sqlite-[ws]*"):
            left.unlink()
    print(seen)
    assert seen["refused"] > 10


@pytest.mark.parametrize("damage", ["cut", "bytes"])
def test_of_a_damaged_log_what_came_before_the_damage_is_there(desk, tmp_path, damage):
    journal = desk.open()
    for number in range(1, 30):
        desk.kept(journal, intent(number))
    # As a machine leaves it that loses its power: the log was not yet carried into the file.
    copies = {name: Path(f"{desk.path}{name}").read_bytes() for name in ("", "-wal")}
    for seed in range(10):
        rng = random.Random(seed)
        log = copies["-wal"]
        at = rng.randrange(len(log) // 4, len(log))
        print(f"seed {seed}: {damage} at {at} of {len(log)}")
        there = Desk(tmp_path / f"{seed}" / "journal.sqlite")
        there.path.parent.mkdir()
        there.path.write_bytes(copies[""])
        broken = log[:at] if damage == "cut" else log[:at] + rng.randbytes(32) + log[at + 32 :]
        Path(f"{there.path}-wal").write_bytes(broken)
        again = there.open()
        kept = [number for (number,) in there.rows("SELECT number FROM intents ORDER BY number")]
        assert kept == list(range(1, len(kept) + 1))
        assert again.first == len(kept) + 1
        # The numbers that were lost may come again; the ids that are made of them do not.
        assert again.nonce != journal.nonce
        assert there.kept(again, intent(again.first, "fresh")) == [""]
        again.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "journal.sqlite")
    refused(tmp_path)


@contextmanager
def as_nobody():
    """Lose the right to write everywhere, where the tests have it: permissions do not stop root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shut_folder():
    """Make a folder that only its owner may write into, where everybody may look."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("there", ["nothing", "a journal", "a journal and its lock"])
def test_a_read_only_folder_is_named(shut_folder, there):
    path = shut_folder / "journal.sqlite"
    if there != "nothing":
        Desk(path).open().close()
        path.chmod(0o444)
    if there == "a journal":
        Path(f"{path}-lock").unlink()
    shut_folder.chmod(0o555)
    with as_nobody():
        refused(path)


def test_a_read_only_file_is_named(shut_folder):
    path = shut_folder / "journal.sqlite"
    Desk(path).open().close()
    path.chmod(0o444)
    Path(f"{path}-lock").chmod(0o666)
    shut_folder.chmod(0o777)
    with as_nobody():
        refused(path)


@contextmanager
def full_disk(path):
    """Have the system itself refuse each byte beyond the log's present end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_intents_keeps_the_rest_and_is_told_once(desk):
    journal = desk.open()
    desk.kept(journal, intent(1))
    with full_disk(desk.path):
        journal.note(Told("bt1", [Accepted("7", 4)], "7", D(0), D(0)))
        (second,), (third,) = desk.kept(journal, intent(2)), desk.kept(journal, intent(3))
        assert journal.trouble == third
    assert "cannot be written" in second
    assert "no order is sent without it" in third
    assert len(desk.notices) == 1
    assert "open ones can be cancelled" in desk.notices[0]
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,)]
    # With room again what was owed is kept, without anybody's asking.
    wait_until(lambda: not journal.trouble, WAIT_S)
    assert "written again" in desk.notices[-1]
    assert desk.rows("SELECT status FROM states") == [("Accepted",)]
    assert desk.kept(journal, intent(4)) == [""]
    assert desk.rows("SELECT number FROM intents ORDER BY number") == [(1,), (4,)]


def test_a_full_disk_with_nothing_owed_is_tried_again_too(desk):
    journal = desk.open()
    desk.kept(journal, intent(1))
    with full_disk(desk.path):
        desk.kept(journal, intent(2))
        trials = []
        journal._db.set_trace_callback(lambda said: trials.append(said) if said.startswith("BEGIN") else None)
        # When the fourth begins three have ended: none of them may take an empty transaction for a success.
        wait_until(lambda: len(trials) >= 4, WAIT_S)
        assert journal.trouble
        assert len(desk.notices) == 1
    wait_until(lambda: not journal.trouble, WAIT_S)
    assert len(desk.notices) == 2


def test_a_database_that_may_not_grow_refuses_intents(desk):
    journal = desk.open()
    desk.kept(journal, intent(1))
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    # SQLite's own word for a disk without room.
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    said = desk.kept(journal, *(intent(number, None, note="x" * 500) for number in range(2, 60)))
    assert any("database or disk is full" in each and "no order is sent without it" in each for each in said)
    kept = {number for (number,) in desk.rows("SELECT number FROM intents")}
    assert kept == {1, *(number for number, each in enumerate(said, 2) if not each)}


def test_a_file_that_was_taken_away_refuses_intents_until_it_is_back(desk, tmp_path):
    journal = desk.open()
    desk.kept(journal, intent(1))
    desk.path.rename(tmp_path / "away.sqlite")
    (said,) = desk.kept(journal, intent(2))
    assert "no order is sent without it" in said
    desk.path.touch()
    (said,) = desk.kept(journal, intent(3))
    assert "another file is in its place" in said
    (tmp_path / "away.sqlite").rename(desk.path)
    wait_until(lambda: not journal.trouble, WAIT_S)
    assert desk.kept(journal, intent(4)) == [""]


def test_many_intents_share_a_commit(desk):
    journal = desk.open()
    said = desk.kept(journal, *(intent(number) for number in range(1, 3_001)))
    assert not any(said)
    assert desk.rows("SELECT COUNT(*), MAX(number) FROM intents") == [(3_000, 3_000)]
    assert desk.rows("SELECT value FROM meta WHERE key = 'counter'") == [("3000",)]

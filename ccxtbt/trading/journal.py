"""The journal: what is to be sent is on disk before it is sent, and what became of it after it.

One SQLite file an account, written by one thread, many records in one transaction (group commit). `sqlite3 FILE` reads
it while a run goes on. Amounts, prices and fees are decimal text, times are the exchange's in ms since 1970 UTC.
"""

from __future__ import annotations

import logging
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import orjson
from platformdirs import user_data_path

from ccxtbt.errors import ConfigError
from ccxtbt.trading.ids import NONCE_BITS
from ccxtbt.trading.orders import Request
from ccxtbt.trading.past import MASKED, Past, read_past
from ccxtbt.trading.rules import text
from ccxtbt.trading.states import Amend, Fill, Submitted, Transition

logger = logging.getLogger(__name__)

# A file of an older schema is brought to the next one by the entry of its version, in one transaction. An entry that
# was released is never changed: what comes later is a step of its own.
_MIGRATIONS: Mapping[int, str] = {
    0: """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- A run of a broker on this account; its nonce is part of its client ids. A run that was killed has no end.
CREATE TABLE runs (run INTEGER PRIMARY KEY, nonce TEXT NOT NULL, began_ms INTEGER NOT NULL, ended_ms INTEGER);
-- An order that was to be sent: there is at most one at the exchange for each row, and none without a row.
-- `number` is the counter within client ids; `ref` and `leg` are backtrader's order and which of its legs this is.
CREATE TABLE intents (
    number INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, run INTEGER NOT NULL REFERENCES runs,
    ref INTEGER NOT NULL, leg INTEGER NOT NULL, tradeid INTEGER NOT NULL,
    symbol TEXT NOT NULL, type TEXT NOT NULL, side TEXT NOT NULL, amount TEXT NOT NULL, price TEXT,
    by_cost INTEGER NOT NULL, params TEXT NOT NULL, until_ms INTEGER, made_ms INTEGER NOT NULL);
-- What was told of an order, in the order in which it was told; the last row is how it stands.
CREATE TABLE states (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, status TEXT NOT NULL, order_id TEXT, reason TEXT NOT NULL,
    filled TEXT NOT NULL, cost TEXT NOT NULL, ts_ms INTEGER);
CREATE INDEX states_of ON states (client_id, id);
-- What was counted: `size` is below 0 for a sale, and 0 in an amendment of what a counted fill came to.
CREATE TABLE fills (
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, trade_id TEXT, size TEXT NOT NULL, price TEXT NOT NULL,
    cost TEXT NOT NULL, fee_cost TEXT, fee_currency TEXT, ts_ms INTEGER);
CREATE INDEX fills_of ON fills (client_id, id);
CREATE UNIQUE INDEX fills_once ON fills (client_id, trade_id) WHERE size <> '0';
-- What hangs together, or waits here to be sent: members of brackets and OCO groups, and orders emulated here.
-- `bond` is the first member's ref, `role` is parent, stop, limit, oco or armed, `asked` what the strategy ordered.
CREATE TABLE links (
    run INTEGER NOT NULL REFERENCES runs, ref INTEGER NOT NULL, bond INTEGER NOT NULL, role TEXT NOT NULL,
    symbol TEXT NOT NULL, asked TEXT NOT NULL, status TEXT NOT NULL, PRIMARY KEY (run, ref)) WITHOUT ROWID;
""",
    1: """
-- What strategies keep over restarts (`store.state`): JSON text by name.
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    2: """
-- What the next run takes up. Of an intent: what the strategy ordered, and in which run, which is `run`, whichever run
-- sent this leg of it. Of a link: the run of its bond.
ALTER TABLE intents ADD COLUMN asked TEXT NOT NULL DEFAULT '{}';
CREATE INDEX intents_of ON intents (run, ref);
ALTER TABLE links ADD COLUMN bond_run INTEGER NOT NULL DEFAULT 0;
UPDATE links SET bond_run = run;
CREATE INDEX links_of ON links (bond_run, bond);
-- How the position of a market stood after the fill `after`: fills are counted from there.
CREATE TABLE books (
    symbol TEXT PRIMARY KEY, after INTEGER NOT NULL, held TEXT NOT NULL, size TEXT NOT NULL, price TEXT NOT NULL
    ) WITHOUT ROWID;
""",
}

SCHEMA_VERSION = len(_MIGRATIONS)

# User parameters that are stored without their value: some exchanges want a password with each order.
_SECRET_WORDS = ("password", "passphrase", "secret", "token", "apikey", "privatekey", "signature", "otp", "2fa")

CLOSE_S = 5.0
# How often a disk that takes nothing is tried again.
PROBE_S = 0.5
_BATCH = 1_000

Row = tuple[str, tuple[Any, ...]]
"""A statement and its values."""


class Record(Protocol):
    """Something that the journal keeps."""

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it; runs on the writer's thread."""


@dataclass(frozen=True, slots=True)
class Intent:
    """An order that is about to be sent.

    Attributes
    ----------
    number : int
        The counter within its client id.
    request : Request
        As it will be sent.
    ref, leg, tradeid : int
        backtrader's order, which of its legs this is, and its trade.
    made_ms : int
        The exchange's time when it was made.
    until_ms : int or None
        When its validity is over.
    asked : mapping
        What the strategy ordered.
    run : int
        In which the order was made; 0: this one.
    """

    number: int
    request: Request
    ref: int
    leg: int
    tradeid: int
    made_ms: int
    until_ms: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    run: int = 0

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        return Intents((self,)).rows(run)

    def values(self, run: int) -> tuple[Any, ...]:
        """Return its row."""
        asked = self.request
        price = None if asked.price is None else text(asked.price)
        return (
            self.number, asked.client_id, self.run or run, self.ref, self.leg, self.tradeid, asked.symbol, asked.type,
            asked.side, text(asked.amount), price, asked.by_cost, _json(asked.params), self.until_ms, self.made_ms,
            _json(self.asked),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Intents:
    """Orders that are about to be sent in one request, as a list: all are kept, or none."""

    orders: tuple[Intent, ...]

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        row = f"({', '.join('?' * 16)})"
        values = tuple(value for order in self.orders for value in order.values(run))
        return [
            # Placeholders alone are put in.
            (f"INSERT INTO intents VALUES {', '.join([row] * len(self.orders))}", values),  # noqa: S608
            ("UPDATE meta SET value = ? WHERE key = 'counter'", (str(max(order.number for order in self.orders)),)),
        ]


@dataclass(frozen=True, slots=True)
class Told:
    """Transitions of an order, as they were told, and how it stands after them.

    Attributes
    ----------
    client_id : str
        Whose.
    transitions : sequence of Transition
        What was told.
    order_id : str or None
        The exchange's id.
    filled, cost : Decimal
        So far, in base and quote.
    """

    client_id: str
    transitions: Sequence[Transition]
    order_id: str | None
    filled: Decimal
    cost: Decimal

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        return [
            self._fill(each) if isinstance(each, Fill | Amend) else self._state(each)
            for each in self.transitions
            if not isinstance(each, Submitted)
        ]

    def _state(self, told: Any) -> Row:
        values = (
            self.client_id, type(told).__name__, self.order_id, getattr(told, "reason", ""), text(self.filled),
            text(self.cost), getattr(told, "ts_ms", None),
        )  # fmt: skip
        return "INSERT INTO states VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values

    def _fill(self, told: Fill | Amend) -> Row:
        whole = isinstance(told, Fill)
        size, price = (told.size, told.price) if isinstance(told, Fill) else (Decimal(0), Decimal(0))
        values = (
            self.client_id, told.trade_id, text(size) if whole else "0", text(price), text(told.cost),
            None if told.fee_cost is None else text(told.fee_cost), told.fee_currency, getattr(told, "ts_ms", None),
        )  # fmt: skip
        # Once, whoever tells it again: the index holds it.
        return "INSERT INTO fills VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values


@dataclass(frozen=True, slots=True)
class Link:
    """A member of what hangs together, or an order that waits here.

    Attributes
    ----------
    ref, bond : int
        backtrader's order, and the first of those it hangs together with.
    role : str
        ``'parent'``, ``'stop'``, ``'limit'``, ``'oco'`` or ``'armed'``.
    symbol : str
        Market.
    asked : mapping
        What the strategy ordered: side, size, exectype, prices, validity, parameters.
    status : str
        ``'open'``, or how it ended.
    run, bond_run : int
        In which the order and the first one were made; 0: this one.
    """

    ref: int
    bond: int
    role: str
    symbol: str
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    status: str = "open"
    run: int = 0
    bond_run: int = 0

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        values = (
            self.run or run, self.ref, self.bond, self.role, self.symbol, _json(self.asked), self.status,
            self.bond_run or run,
        )  # fmt: skip
        return [("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)]


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """A member is over."""

    ref: int
    status: str
    run: int = 0

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        return [("UPDATE links SET status = ? WHERE run = ? AND ref = ?", (self.status, self.run or run, self.ref))]


@dataclass(frozen=True, slots=True)
class Trailed:
    """A stop that is watched here has moved with the price."""

    ref: int
    price: float
    plimit: float
    since_ms: int
    run: int = 0

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        # As text, since SQLite itself would write a float with 15 digits.
        level = "json_set(asked, '$.price', json(?), '$.plimit', json(?), '$.since_ms', ?)"
        moved = f"UPDATE links SET asked = {level} WHERE run = ? AND ref = ?"  # noqa: S608  # a constant
        values = (orjson.dumps(float(each)).decode() for each in (self.price, self.plimit))
        return [(moved, (*values, self.since_ms, self.run or run, self.ref))]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A position is counted from here on.

    Attributes
    ----------
    symbol : str
        Market.
    held, size, price : Decimal
        As of `trading.books.Book`.
    after : int or None
        The last fill that this holds, by its id in the journal; None: all that were kept before.
    """

    symbol: str
    held: Decimal
    size: Decimal
    price: Decimal
    after: int | None = None

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        values = (self.symbol, self.after, text(self.held), text(self.size), text(self.price))
        kept = "INSERT OR REPLACE INTO books VALUES (?, COALESCE(?, (SELECT MAX(id) FROM fills), 0), ?, ?, ?)"
        return [(kept, values)]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a strategy has set or taken out of its state, all at once.

    Attributes
    ----------
    texts : mapping of str to str or None
        JSON text by name; None: it is gone.
    """

    texts: Mapping[str, str | None]

    def rows(self, run: int) -> list[Row]:
        """Return the statements that keep it."""
        return [
            ("DELETE FROM state WHERE name = ?", (name,))
            if value is None
            else ("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))
            for name, value in self.texts.items()
        ]


def _shown(value: Any) -> Any:
    """Return user parameters without the values of those whose names say that they are secret."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: MASKED if any(word in str(key).lower().replace("_", "") for word in _SECRET_WORDS) else _shown(each)
        for key, each in value.items()
    }


def _json(values: Mapping[str, Any]) -> str:
    return orjson.dumps(_shown(values), default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def default_path(account: str) -> Path:
    """Return where the journal of an account is kept in the user's own folder of data.

    Parameters
    ----------
    account : str
        Exchange and a fingerprint of the key.
    """
    return Path(user_data_path("ccxtbt", appauthor=False)) / "journal" / f"{account}.sqlite"


Then = Callable[[str], None]
"""Hears that an intent is on disk (''), or why it is not; on the writer's thread."""


class Journal:
    """The journal of one account, open for one run.

    Parameters
    ----------
    path : Path
        The file; made where there is none.
    account : str
        Exchange and a fingerprint of the key: a file serves one account.
    notice : callable
        Hears, from the writer's thread, what the user should be told.
    now_ms : callable
        The exchange's time.

    Attributes
    ----------
    nonce : int
        The run's random part of client ids.
    first : int
        The first number of this run's client ids.
    past : Past
        What earlier runs have left; once it is open.
    state : dict of str to str
        What strategies have kept, when it was opened: JSON text by name.
    trouble : str
        Why nothing can be written at present, so that no order may be sent; '' while all is well.
    """

    def __init__(self, path: Path, account: str, notice: Callable[[str], None], now_ms: Callable[[], int]) -> None:
        self.path = path
        self.nonce = secrets.randbits(NONCE_BITS)
        self.first = 1
        self.past = Past()
        self.state: dict[str, str] = {}
        self.trouble = ""
        self._account = account
        self._notice = notice
        self._now_ms = now_ms
        self._queue: queue.SimpleQueue[tuple[Record, Then | None] | None] = queue.SimpleQueue()
        self._owed: list[Record] = []
        self._run = 0
        self._inode = 0
        self._db: sqlite3.Connection
        self._held: list[sqlite3.Connection] = []
        self._thread = threading.Thread(target=self._write, name="ccxtbt-journal", daemon=True)

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    def open(self) -> None:
        """Open the file, take it for this run, and begin to write.

        Raises
        ------
        ConfigError
            It cannot be written or read, is of another account or a newer release, or another run has it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take()
            self._db = self._connect(self.path)
            self._prepare(self._db)
            self.past = read_past(self._db)
            self._inode = self.path.stat().st_ino
        except ConfigError:
            self._shut()
            raise
        # Where bytes of a file were changed, its values too may be of any kind.
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError, ArithmeticError) as error:
            self._shut()
            raise ConfigError(
                f"The journal {self.path} cannot be used ({error}), and no order is sent without it: make its folder "
                "writable and its disk roomy, move a damaged file away, or give CCXTStore(journal=...) another place."
            ) from error
        self._thread.start()

    def close(self) -> None:
        """Write what is left, note the end of the run, and let the file go; nothing happens if it is not open."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                logger.error("%s was not closed within %g s: its disk does not answer.", self, CLOSE_S)

    def intend(self, intent: Intent | Intents, then: Then) -> None:
        """Keep an intent; `then` is told when it is on disk, or that it never will be. Returns at once."""
        self._queue.put((intent, then))

    def note(self, record: Record) -> None:
        """Keep what was learnt; it is written again and again until the disk takes it. Returns at once."""
        self._queue.put((record, None))

    # Opening, on the caller's thread

    def _connect(self, path: Path | str, timeout_s: float = 5.0) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=False)
        self._held.append(db)
        return db

    def _take(self) -> None:
        """Hold the file's lock until this process ends, however it ends."""
        # SQLite's own lock, on a file beside: the journal itself stays readable for others.
        try:
            self._connect(f"{self.path}-lock", 0.0).execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise ConfigError(
                f"The journal {self.path} is in use by another run, of this process or another: two runs on one "
                "account would take each other's orders for their own. Stop the other run, or give this one a key and "
                "a journal of its own."
            ) from None

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        # Each commit is on the disk itself: also a machine that loses its power has what it sent.
        db.execute("PRAGMA synchronous = FULL")
        (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"The journal {self.path} was written by a newer ccxtbt (schema {version}, here {SCHEMA_VERSION}): "
                "update ccxtbt, or give CCXTStore(journal=...) another place."
            )
        while version < SCHEMA_VERSION:
            db.executescript(f"BEGIN;{_MIGRATIONS[version]}PRAGMA user_version = {version + 1};COMMIT;")
            version += 1
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT OR IGNORE INTO meta VALUES (?, ?)", [("account", self._account), ("counter", "0"), ("nonce", "")]
        )
        kept = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if kept["account"] != self._account:
            db.execute("ROLLBACK")
            raise ConfigError(
                f"The journal {self.path} is of another account ({kept['account']}, not {self._account}): give each "
                "account, each key and each test network a journal of its own."
            )
        self.first = int(kept["counter"]) + 1
        self.state = dict(db.execute("SELECT name, value FROM state").fetchall())
        for value in self.state.values():
            orjson.loads(value)
        nonce = f"{self.nonce:013x}"
        db.execute("UPDATE meta SET value = ? WHERE key = 'nonce'", (nonce,))
        self._run = (
            db.execute("INSERT INTO runs (nonce, began_ms) VALUES (?, ?)", (nonce, self._now_ms())).lastrowid or 0
        )
        db.execute("COMMIT")

    def _shut(self) -> None:
        for db in reversed(self._held):
            db.close()

    # The writer's thread

    def _write(self) -> None:
        ending = False
        while not ending:
            batch: list[tuple[Record, Then | None] | None] = []
            with suppress(queue.Empty):
                batch.append(self._queue.get(timeout=PROBE_S if self.trouble else None))
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            ending = None in batch
            self._keep([item for item in batch if item is not None], ending)
        if self._owed:
            logger.error("%d records could not be written to %s; they are lost.", len(self._owed), self)
        self._shut()

    def _keep(self, batch: Sequence[tuple[Record, Then | None]], ending: bool) -> None:
        """Write a batch in one transaction, with what earlier ones still owe, and tell those who wait."""
        owed = [*self._owed, *(record for record, then in batch if then is None)]
        waiting = [(record, then) for record, then in batch if then is not None]
        refused: list[str] = []
        try:
            if self.path.stat().st_ino != self._inode:
                # What is written into a file that has lost its name is found by nobody.
                raise FileNotFoundError("another file is in its place")
            self._db.execute("BEGIN IMMEDIATE")
            for record in owed:
                self._put(record)
            refused = [self._put(record) for record, _ in waiting]
            if ending:
                self._db.execute("UPDATE runs SET ended_ms = ? WHERE run = ?", (self._now_ms(), self._run))
            elif self.trouble:
                # Of a transaction that changes nothing the disk would never hear.
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('tried', hex(randomblob(8)))")
            self._db.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._owed = owed
            refused = [self._trouble(error)] * len(waiting)
        else:
            self._owed = []
            if self.trouble:
                self.trouble = ""
                logger.warning("%s is written again.", self)
                self._notice(f"The journal {self.path} is written again: orders are sent again.")
        for (_, then), reason in zip(waiting, refused, strict=True):
            then(reason)

    def _put(self, record: Record) -> str:
        """Add a record to the transaction; return why it cannot be kept, whatever the disk: '' if it can."""
        try:
            for statement, values in record.rows(self._run):
                self._db.execute(statement, values)
        except sqlite3.IntegrityError:
            return "Its client id is in use by an earlier order of this account: every order needs one of its own."
        except (TypeError, ValueError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
            logger.exception("A record cannot be kept in %s: %r", self, record)
            return (
                f"It cannot be kept in the journal ({error}): give parameters that JSON can write, and a tradeid that "
                "is a number below 2**63."
            )
        return ""

    def _trouble(self, error: Exception) -> str:
        """Return what is to be told of a disk that takes nothing; tell the user when it begins."""
        reason = (
            f"The journal {self.path} cannot be written ({error}), and no order is sent without it: make room on its "
            "disk, or its file writable."
        )
        if not self.trouble:
            logger.error("%s", reason)
            self._notice(f"{reason} New orders are refused until then; open ones can be cancelled.")
        self.trouble = reason
        return reason

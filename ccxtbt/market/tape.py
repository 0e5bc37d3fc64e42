"""The trades of a market in order, and bars built from them: what is complete, and what must be asked of REST first.

Pure: time and messages are arguments, nothing is read or sent.

When a bar is final
-------------------
Where trades are numbered without gaps, a bar is final with the first trade of a later bar, if no number before that
trade is missing; a number that is missing is asked of REST. Where nobody trades after a bar's end, REST is asked for
trades after the last one, `QUIET_MS` after that end; that there are none makes the bar final.

Numbers that REST does not have either do not exist. After `SKIPS` of them the exchange is taken to number with gaps:
then a lost trade cannot be known, a bar is final `SETTLE_MS` after its end, by the exchange's clock, and REST is asked
only after a break. The same holds where ids are no numbers, or
numbers that do not rise with time.

A trade that comes for a bar that was final already is counted, and changes nothing.

Trades without a number
-----------------------
These are known by time, price, amount and side, of which several may be alike. The stream brings each once from one
break to the next, and so does an answer of REST: where one of them told two that are alike and another three, there
are three.

Trades put together
-------------------
Some streams put together what one order took at one price, and REST tells each part alone (`Trade.numbers`). Such a
trade stands for all of its numbers: none of them is missing, and none that REST tells is added to it. Where REST told
some of them first and their turn is over, it tells no more than that the rest exists, and REST is asked for that.
Where numbers may have gaps, it counts for what is not known of it yet.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from ccxtbt._bars import TradeBars
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import AGAIN_MS, QUIET_MS, SETTLE_MS, Bar, Origin
from ccxtbt.market.timeframes import Timeframe, close_ms, floor_ms

# So many missing numbers that REST does not have, and the exchange's numbers are taken to have gaps.
SKIPS = 3
# How many trades are known again when they come twice, where their numbers do not tell.
REMEMBERED = 10_000
# How often a market in which nobody seems to trade is looked at.
SILENT_MS = 30_000
# ccxt asks Binance for no more than the trades of an hour from a time on: an empty answer says nothing of later ones.
WINDOW_MS = 3_600_000
# A float tells no more decimals apart in amounts of usual size.
MOST_PLACES = 15


class TradeQuestion(NamedTuple):
    """Trades to ask of REST: from a number on, or, where that is None, from a time on; and not before when."""

    from_id: int | None
    since_ms: int
    at_ms: int


class Sums:
    """What the trades of a bar come to, for lines beside prices and volume.

    Parameters
    ----------
    names : tuple of str
        Those wanted, of `ccxtbt.exchange.facts.EXTRA_LINES`.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._values = dict.fromkeys(names, 0.0)

    def add(self, trade: Trade) -> None:
        """Take one trade of the bar that goes on."""
        values = self._values
        for name in self._names:
            if name == "trades":
                values[name] += trade.parts
            elif name == "quote_volume":
                values[name] += trade.price * trade.amount
            elif not trade.side:
                values[name] = math.nan
            elif trade.side == "buy":
                values[name] += trade.amount

    def take(self, places: int, quote_places: int) -> tuple[float, ...]:
        """Return the values of the bar that is over, to so many decimals, in the order of the names; begin anew."""
        taken = tuple(
            round(value, quote_places if name == "quote_volume" else places) for name, value in self._values.items()
        )
        self._values = dict.fromkeys(self._names, 0.0)
        return taken


class Reel:
    """The trades of one market in order, each once. What they make is for a subclass to say.

    Parameters
    ----------
    since_ms : int
        Trades before it are not wanted.
    names : tuple of str
        Extra values of bars that are wanted, of `ccxtbt.exchange.facts.EXTRA_LINES`.

    Attributes
    ----------
    complete_ms : int
        All bars that open before are known.
    fetched : int
        Trades that REST alone gave.
    """

    def __init__(self, since_ms: int, names: tuple[str, ...] = ()) -> None:
        self.complete_ms = since_ms
        self.fetched = 0
        self._names = names
        self._sums = Sums(names)
        self._dense = True
        # Most decimals that an amount and a price had.
        self._places = 0
        self._price_places = 0
        self._skips = 0
        self._next: int | None = None
        self._asked_id: int | None = None
        self._waiting: dict[str, Trade] = {}
        # Trades put together, by the first of their numbers, while numbers have no gaps.
        self._joint: dict[int, Trade] = {}
        # One of them that is taken whole, for REST does not tell its parts.
        self._whole: int | None = None
        # Numbers, and the amounts that were told for them.
        self._known: dict[str, float] = {}
        # How many that are alike the stream brought since the last break, of trades without a number.
        self._streamed: Counter[str] = Counter()
        self._last_ms = since_ms
        self._asked_ms = 0
        # Trades may have been missed: before the first frame, and after each break.
        self._unsure = True
        self._breaks = 0
        self._asked_breaks = 0

    @property
    def sure(self) -> bool:
        """Whether no trade is known to be missing."""
        return not self._unsure and not self._hole()

    def broken(self) -> None:
        """Note that trades may be missed."""
        self._unsure = True
        self._breaks += 1
        # What follows may begin with trades that were shown before.
        self._streamed.clear()

    def add(self, trades: Iterable[Trade]) -> list[Bar]:
        """Take trades from the stream; return the bars that they make final."""
        for trade in trades:
            self._hold(trade, self._streamed)
        _trim(self._streamed)
        return self._advance() if self._dense and not self._unsure else []

    def answered(self, trades: list[Trade], more: bool, sent_ms: int, received_ms: int) -> list[Bar]:
        """Take REST's answer; return the bars that are final now.

        Parameters
        ----------
        trades : list of Trade
            Oldest first; nothing is left out between them.
        more : bool
            The answer was full: there are more behind it.
        sent_ms, received_ms : int
            When the question left and its answer had come, by the exchange's clock.
        """
        self._asked_ms = received_ms + AGAIN_MS
        asked = self._asked_id
        if self._dense and asked is not None and not any(t.id.isdecimal() and int(t.id) >= asked for t in trades):
            # The last trade that is known was asked for too: an answer that does not reach it says nothing.
            return []
        if self._dense and not _numbered(trades):
            self._unnumber()
        told: Counter[str] = Counter()
        fresh = [trade for trade in trades if self._hold(trade, told)]
        self.fetched += len(fresh)
        if asked is None and not trades and self._last_ms + WINDOW_MS < sent_ms:
            # Nobody traded in the time that such an answer can speak of.
            self._last_ms += WINDOW_MS
            self._asked_ms = 0
            return []
        if self._dense and trades:
            if self._next is None:
                self._next = int(trades[0].id)
                # By a clock that is wrong the stream may have begun before the first bar wanted.
                self._waiting = {key: trade for key, trade in self._waiting.items() if int(key) >= self._next}
                self._forget_past()
            elif int(trades[-1].id) >= self._next and self._hole():
                self._skip(self._next)
        if more:
            # What was given may be used up to its end; the next page follows at once.
            self._asked_ms = 0
            self._last_ms = max(trades[-1].ts_ms, self._last_ms + 1)
            return self._advance()
        # A break while the question was on its way is not mended by its answer.
        self._unsure = self._breaks != self._asked_breaks
        bars = self._advance()
        if self._dense and not self._hole() and not self._unsure:
            bars += self._closed_by(sent_ms - QUIET_MS)
        return bars

    def tick(self, now_ms: int) -> list[Bar]:
        """Return the bars that time alone makes final."""
        if self._dense or self._unsure:
            return []
        return self._feed(self._ordered(self._whole_ms(now_ms - SETTLE_MS))) + self._closed_by(now_ms - SETTLE_MS)

    def question(self) -> TradeQuestion | None:
        """Return what to ask of REST next, and when; None if nothing is missing."""
        from_id = self._asked_id = self._next - 1 if self._dense and self._next is not None else None
        self._asked_breaks = self._breaks
        if self._unsure or self._hole():
            return TradeQuestion(from_id, self._last_ms, self._asked_ms)
        if not self._dense:
            return None
        return TradeQuestion(from_id, self._last_ms, self._look_ms())

    # What is made of them

    def _feed(self, trades: list[Trade]) -> list[Bar]:
        """Take trades in their order; return the bars that they make final."""
        raise NotImplementedError

    def _closed_by(self, now_ms: int) -> list[Bar]:
        """Return the bars that are final because no trade before a time is missing."""
        raise NotImplementedError

    def _look_ms(self) -> int:
        """Return when REST is asked whether the last trade known is the last one."""
        raise NotImplementedError

    def _whole_ms(self, now_ms: int) -> int:
        """Return up to where trades can be used that are known up to a time."""
        return now_ms

    def _fits(self, trade: Trade) -> bool:
        """Whether one that stands for several can be used without its parts."""
        return True

    def _note(self, trade: Trade) -> None:
        while round(trade.amount, self._places) != trade.amount and self._places < MOST_PLACES:
            self._places += 1
        if self._names:
            while round(trade.price, self._price_places) != trade.price and self._price_places < MOST_PLACES:
                self._price_places += 1

    def _bar(self, ts_ms: int, opened: float, high: float, low: float, close: float, volume: float) -> Bar:
        # A sum of floats lies a little beside the exchange's decimal; the places of its amounts bring it back.
        extra = self._sums.take(self._places, min(MOST_PLACES, self._places + self._price_places))
        return Bar(ts_ms, opened, high, low, close, round(volume, self._places), Origin.TRADES, extra)

    # The order

    def _hold(self, trade: Trade, told: Counter[str]) -> bool:
        """Keep a trade until its turn, of those that one source told; say whether it is new."""
        if self._dense and not trade.id.isdecimal():
            self._loosen()
        if self._next is not None and trade.id.isdecimal() and int(trade.id) < self._next:
            if trade.ts_ms <= self._last_ms:
                # Its turn is over, also where the numbers turned out to have gaps since.
                return False
            self._unnumber()
        if self._dense:
            if trade.numbers > 1:
                return self._joint.setdefault(_first_of(trade), trade) is trade
            if trade.id in self._waiting:
                return False
            self._waiting[trade.id] = trade
            return not any(first <= int(trade.id) <= int(each.id) for first, each in self._joint.items())
        if trade.numbers > 1:
            return self._hold_rest_of(trade)
        key = trade.id
        if not key:
            alike = f"{trade.ts_ms} {trade.price} {trade.amount} {trade.side}"
            told[alike] += 1
            key = f"{alike} {told[alike]}"
        if key in self._known:
            return False
        self._know({key: trade.amount})
        self._waiting[key] = trade
        return True

    def _hold_rest_of(self, trade: Trade) -> bool:
        """Keep what is not known of several trades put together; say whether there is any."""
        numbers = [str(number) for number in range(_first_of(trade), int(trade.id) + 1)]
        if self._next is not None and int(numbers[0]) < self._next:
            # What was told for the numbers before is forgotten: REST tells the rest, if it is asked.
            return False
        had = [self._known[number] for number in numbers if number in self._known]
        if len(had) == len(numbers):
            return False
        left = len(numbers) - len(had)
        # In decimals, for a float beside the exchange's own would be taken for one of more places.
        amount = float(Decimal(repr(trade.amount)) - sum(Decimal(repr(each)) for each in had))
        self._know({number: 0.0 for number in numbers if number not in self._known})
        # The trade whose number this one bears may wait for its turn too.
        self._waiting[f"{trade.id} and before"] = trade._replace(amount=max(amount, 0.0), parts=left, numbers=left)
        return True

    def _know(self, amounts: dict[str, float]) -> None:
        self._known.update(amounts)
        _trim(self._known)

    def _hole(self) -> bool:
        return (
            self._dense
            and bool(self._waiting or self._joint)
            and (self._next is None or (str(self._next) not in self._waiting and self._due() is None))
        )

    def _due(self) -> Trade | None:
        """Return the trades put together whose turn it is, if they can be used so."""
        trade = self._joint.get(self._next) if self._joint and self._next is not None else None
        return trade if trade is not None and (self._whole == self._next or self._fits(trade)) else None

    def _skip(self, behind: int) -> None:
        """Go on behind a number that REST does not have."""
        if behind in self._joint:
            # It exists, and REST does not reach so far back: what the stream told is all that can be known.
            self._whole = behind
            return
        ends = [int(trade.id) + 1 for first, trade in self._joint.items() if first < behind]
        if not ends:
            self._skips += 1
        self._next = min([*map(int, self._waiting), *(first for first in self._joint if first > behind), *ends])
        self._forget_past()
        if self._skips >= SKIPS:
            self._loosen()

    def _forget_past(self) -> None:
        """Let go of trades put together whose turn is over."""
        if self._joint:
            self._joint = {key: trade for key, trade in self._joint.items() if int(trade.id) >= (self._next or 0)}

    def _loosen(self) -> None:
        self._dense = False
        self._know({key: trade.amount for key, trade in self._waiting.items()})
        joint, self._joint = self._joint, {}
        for trade in joint.values():
            self._hold_rest_of(trade)

    def _unnumber(self) -> None:
        """Take it that a trade's number tells nothing of other trades."""
        self._loosen()
        self._next = None

    def _advance(self) -> list[Bar]:
        """Take the trades whose turn it is."""
        if not self._dense or self._next is None:
            return []
        bars: list[Bar] = []
        taken: list[Trade] = []
        while True:
            if self._joint:
                # Whether one fits depends on what is made of those before.
                bars += self._feed(taken)
                taken = []
            if (joint := self._due()) is not None:
                taken.append(joint)
                while self._next <= int(joint.id):
                    self._waiting.pop(str(self._next), None)
                    self._next += 1
            elif (trade := self._waiting.pop(str(self._next), None)) is not None:
                taken.append(trade)
                self._next += 1
            else:
                self._forget_past()
                return bars + self._feed(taken)

    def _ordered(self, until_ms: int) -> list[Trade]:
        """Take the trades before a time, by time; those of one time in the order in which they came."""
        due = sorted(
            ((key, trade) for key, trade in self._waiting.items() if trade.ts_ms < until_ms),
            key=lambda item: item[1].ts_ms,
        )
        for key, _ in due:
            del self._waiting[key]
        return [trade for _, trade in due]


class Tape(Reel):
    """The bars of a timeframe that the trades of a market make.

    Parameters
    ----------
    timeframe : Timeframe
        Length of the bars.
    since_ms : int
        Open of the first bar wanted; trades before it are left out.
    watchful : bool
        Whether it must be known at each bar's end that nobody traded, and not only now and then.
    names : tuple of str
        As in `Reel`.
    """

    def __init__(
        self, timeframe: Timeframe, since_ms: int, watchful: bool = False, names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(since_ms, names)
        self._timeframe = timeframe
        self._bars = TradeBars(timeframe, since_ms)
        self._watchful = watchful

    @property
    def late(self) -> int:
        """Trades that came after their bar was final."""
        return int(self._bars.late)

    def _feed(self, trades: list[Trade]) -> list[Bar]:
        bars = []
        for trade in trades:
            self._note(trade)
            left_out = self._bars.late + self._bars.skipped if self._names else 0
            closed = self._bars.add(trade.ts_ms, trade.price, trade.amount)
            if closed is not None:
                bars.append(self._bar(*closed))
            if self._names and self._bars.late + self._bars.skipped == left_out:
                self._sums.add(trade)
        if trades:
            last_ms = max(trade.ts_ms for trade in trades)
            self._last_ms = max(self._last_ms, last_ms)
            self.complete_ms = max(self.complete_ms, floor_ms(self._timeframe, last_ms))
        return bars

    def _closed_by(self, now_ms: int) -> list[Bar]:
        ts_ms, ohlcv = self._bars.close_until(now_ms)
        self.complete_ms = max(self.complete_ms, floor_ms(self._timeframe, now_ms))
        return [self._bar(*bar) for bar in zip(ts_ms.tolist(), *ohlcv.tolist(), strict=True)]

    def _look_ms(self) -> int:
        forming = self._bars.forming()
        open_ms = self.complete_ms if forming is None else forming[0]
        # Without a bar that waits, it may be that nobody trades, or that the only trade was lost.
        pause_ms = 0 if forming is not None or self._watchful else SILENT_MS
        return max(close_ms(self._timeframe, open_ms) + QUIET_MS, self._asked_ms + pause_ms)

    def _whole_ms(self, now_ms: int) -> int:
        return floor_ms(self._timeframe, now_ms)


def _first_of(trade: Trade) -> int:
    return int(trade.id) - trade.numbers + 1


def _trim(known: dict[str, Any]) -> None:
    """Forget what was learnt first."""
    while len(known) > REMEMBERED:
        del known[next(iter(known))]


def _numbered(trades: list[Trade]) -> bool:
    """Say whether a later trade always has a higher number."""
    if not all(trade.id.isdecimal() for trade in trades):
        return False
    numbers = [int(trade.id) for trade in sorted(trades, key=lambda trade: (trade.ts_ms, int(trade.id)))]
    return all(first < second for first, second in itertools.pairwise(numbers))

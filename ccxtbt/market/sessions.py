"""Trading hours: which bars open within them, in the wall time of any zone.

Pure: times are arguments.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccxtbt.errors import ConfigError

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Session:
    """Hours of a day in which a market counts as open.

    Attributes
    ----------
    start, end : str or time
        Wall times such as ``'09:30'``; a bar that opens at `start` is in, one that opens at `end` is not. With `end`
        at or before `start` the session ends on the next day; ``'00:00'`` to ``'00:00'`` is a whole day.
    days : str or iterable of str
        Days on which the session starts: ``'mon-fri'``, ``'mon,wed'`` or ``['sat', 'sun']``.
    tz : str, tzinfo or None
        Zone of the wall times; None: that of the feed, or UTC.
    """

    start: str | dt.time
    end: str | dt.time
    days: str | Iterable[str] = "mon-sun"
    tz: str | dt.tzinfo | None = None


class Sessions:
    """The sessions of a market.

    Parameters
    ----------
    sessions : Session, tuple, dict or list of these
        A tuple or dict is what makes a `Session`: ``('09:30', '16:00', 'mon-fri', 'America/New_York')``.
    zone : tzinfo or None
        Zone of the sessions that name none; None: UTC.

    Raises
    ------
    ConfigError
        What was given is no session.
    """

    def __init__(self, sessions: Any, zone: dt.tzinfo | None = None) -> None:
        several = isinstance(sessions, list) or (
            isinstance(sessions, tuple) and bool(sessions) and not isinstance(sessions[0], (str, dt.time))
        )
        listed = [_session(each) for each in (sessions if several else [sessions])]
        if not listed:
            raise ConfigError("sessions=[] is never open: give start and end, such as ('09:30', '16:00'), or None.")
        self._rules = [
            (_time(each.start), _time(each.end), _days(each.days), _zone(each.tz) or zone or dt.UTC) for each in listed
        ]

    def mask(self, ts_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of the times lie within a session.

        Parameters
        ----------
        ts_ms : int64[n]
            Increasing, in ms UTC.

        Returns
        -------
        bool[n]
        """
        if not len(ts_ms):
            return np.zeros(0, np.bool_)
        starts, ends = self.spans(int(ts_ms[0]), int(ts_ms[-1]))
        if not len(starts):
            return np.zeros(len(ts_ms), np.bool_)
        at = starts.searchsorted(ts_ms, "right") - 1
        return np.asarray((at >= 0) & (ts_ms < ends[at]))

    def spans(self, first_ms: int, last_ms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the starts and the ends of all sessions that touch a span of time, joined where they meet."""
        # A session may start the day before, and a day may begin hours earlier elsewhere.
        day, last = _date(first_ms) - 2 * DAY, _date(last_ms) + DAY
        spans = []
        while day <= last:
            for start, end, days, zone in self._rules:
                if day.weekday() in days:
                    end_day = day if end > start else day + DAY
                    spans.append((_utc_ms(day, start, zone), _utc_ms(end_day, end, zone)))
            day += DAY
        joined: list[list[int]] = []
        for start_ms, end_ms in sorted(spans):
            if joined and start_ms <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], end_ms)
            else:
                joined.append([start_ms, end_ms])
        table = np.array(joined, np.int64).reshape(-1, 2)
        return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


def _session(given: Any) -> Session:
    if isinstance(given, Session):
        return given
    try:
        return Session(**given) if isinstance(given, Mapping) else Session(*given)
    except TypeError as error:
        raise ConfigError(
            f"sessions={given!r} is no session: give start and end, and days and tz if you like, such as "
            "('09:30', '16:00', 'mon-fri', 'America/New_York')."
        ) from error


def _time(given: str | dt.time) -> dt.time:
    if isinstance(given, dt.time):
        return given
    try:
        return dt.time() if given == "24:00" else dt.time.fromisoformat(given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{given!r} is no time of a session: write hours and minutes, such as '09:30'.") from error


def _days(given: str | Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for part in given.split(",") if isinstance(given, str) else given:
        names = [name.strip().lower()[:3] for name in str(part).split("-")]
        if len(names) > 2 or any(name not in WEEK for name in names):
            raise ConfigError(f"days={given!r} of a session: write 'mon-fri', 'mon,wed' or ['sat', 'sun'].")
        first, last = WEEK.index(names[0]), WEEK.index(names[-1])
        # 'fri-mon' goes over the weekend.
        found.update((first + k) % 7 for k in range((last - first) % 7 + 1))
    return frozenset(found)


def _zone(given: str | dt.tzinfo | None) -> dt.tzinfo | None:
    if not isinstance(given, str):
        return given
    try:
        return zoneinfo.ZoneInfo(given)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"Unknown time zone {given!r}: give an IANA name such as 'Europe/Berlin'.") from error


def _date(ts_ms: int) -> dt.date:
    return dt.datetime.fromtimestamp(ts_ms / 1000, dt.UTC).date()


def _utc_ms(day: dt.date, time: dt.time, zone: Any) -> int:
    wall = dt.datetime.combine(day, time)
    # Zones of pytz must do this themselves.
    local = zone.localize(wall) if hasattr(zone, "localize") else wall.replace(tzinfo=zone)
    return round(local.timestamp() * 1000)

"""What real exchanges do wrong, as rules: each says what it waits for, which occurrence it takes and what happens.

A rule matches requests (REST and ws-api), frames (one frame on its way to one connection), connects (WebSocket
handshakes) or subscribes (one stream in a subscribe message). It counts its own matches from 1, fires on the ``nth``
and the ``times - 1`` after it (``times=0``: for ever), and each firing is noted in ``Faults.log``. The server applies
the rule where the real exchange would: a dropped answer belongs to a request that has been carried out, a 429 to one
that has not.

All durations are seconds on the simulator's clock, as everything that the simulator times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Target = Literal["request", "frame", "connect", "subscribe"]
Where = Callable[[Mapping[str, Any]], bool]
Change = Callable[[Mapping[str, Any]], Mapping[str, Any]]

HTML = b"<!DOCTYPE html>\n<html><head><title>ERROR</title></head><body><h1>Request blocked.</h1></body></html>\n"


class Fired(NamedTuple):
    """One firing of a rule: on its which match, when (ms on the simulator's clock), what it did, to what."""

    nth: int
    now_ms: int
    action: str
    what: str


@dataclass(slots=True)
class Rule:
    """One fault.

    Parameters
    ----------
    target
        What is counted: 'request', 'frame', 'connect' or 'subscribe'.
    action
        What happens; see `Faults` for the actions of each target.
    nth, times
        The first match that fires, from 1, and how many in a row do; ``times=0`` never stops.
    match
        Values that the fields of the occurrence must have. Requests have method, path and symbol (ws-api requests have
        method 'WS' and the ws-api's method name as path); frames have stream, event and connection; connects have
        socket ('market' or 'user'); subscribes have stream.
    where
        A further test on the request's parameters or the frame's event, as a mapping.
    args
        What the action needs, such as ``seconds`` or ``code``.

    Attributes
    ----------
    seen, fired
        How often it has matched, and how often it came to pass.
    """

    target: Target
    action: str
    nth: int = 1
    times: int = 1
    match: Mapping[str, object] = field(default_factory=dict)
    where: Where | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.nth < 1 or self.times < 0:
            raise ValueError(f"nth counts from 1 and times from 0 (for ever); got nth={self.nth}, times={self.times}.")

    def fires(self, fields: Mapping[str, object], content: Mapping[str, Any]) -> bool:
        """Count the occurrence if it matches; say whether the rule fires on it."""
        if any(fields.get(key) != value for key, value in self.match.items()):
            return False
        if self.where is not None and not self.where(content):
            return False
        self.seen += 1
        fires = self.seen >= self.nth and (self.times == 0 or self.seen < self.nth + self.times)
        self.fired += fires
        return fires


class Faults:
    """The rules of one simulated exchange and the record of what they did.

    Rules may be added while the server runs, from any thread. Each adding method returns its `Rule`, whose ``seen``
    and ``fired`` tell how often it has matched and come to pass.

    ========= =========================================================================================
    target    actions
    ========= =========================================================================================
    request   drop_answer, delay_answer, delay_request, answer, truncate, fill_first, lag, skew
    frame     lose, duplicate, delay, reorder, garble, amend, close, abort, stall
    connect   refuse, delay, close (accept, then close)
    subscribe refuse
    ========= =========================================================================================
    """

    def __init__(self) -> None:
        self.rules: dict[Target, list[Rule]] = {"request": [], "frame": [], "connect": [], "subscribe": []}
        self.log: list[Fired] = []
        self.now_ms: Callable[[], int] = lambda: 0

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force."""
        self.rules[rule.target].append(rule)
        return rule

    def clear(self) -> None:
        """Take all rules out of force; the log stays."""
        for rules in self.rules.values():
            rules.clear()

    def take(self, target: Target, fields: Mapping[str, object], content: Mapping[str, Any]) -> list[Rule]:
        """Show an occurrence to the rules of its kind; return those that fire on it, in the order they were added."""
        fired = [rule for rule in self.rules[target] if rule.fires(fields, content)]
        for rule in fired:
            what = " ".join(str(value) for value in fields.values() if value is not None)
            self.log.append(Fired(rule.seen, self.now_ms(), f"{target} {rule.action}", what))
        return fired

    def _on_request(self, action: str, args: Mapping[str, Any], which: Mapping[str, Any]) -> Rule:
        return self.add(_rule("request", action, args, which, ("path", "method", "symbol")))

    def _on_frame(self, action: str, args: Mapping[str, Any], which: Mapping[str, Any]) -> Rule:
        return self.add(_rule("frame", action, args, which, ("stream", "event", "connection")))

    def drop_answer(self, **which: Any) -> Rule:
        """Carry the request out, then cut the connection instead of answering.

        Parameters
        ----------
        **which
            ``path``, ``method``, ``symbol``, ``where``, ``nth`` and ``times``, as for every rule on requests.
        """
        return self._on_request("drop_answer", {}, which)

    def delay_answer(self, seconds: float, **which: Any) -> Rule:
        """Carry the request out at once, but answer ``seconds`` later."""
        return self._on_request("delay_answer", {"seconds": seconds}, which)

    def delay_request(self, seconds: float, **which: Any) -> Rule:
        """Carry the request out only ``seconds`` after it came: it is checked against the clock of then (-1021)."""
        return self._on_request("delay_request", {"seconds": seconds}, which)

    def answer(
        self, status: int, body: bytes, *, taken: bool, headers: Mapping[str, str] | None = None, **which: Any
    ) -> Rule:
        """Answer with this status and body; ``taken`` says whether the request is carried out before."""
        args = {"status": status, "body": body, "taken": taken, "headers": dict(headers or {})}
        return self._on_request("answer", args, which)

    def rate_limited(self, retry_after_s: int = 30, **which: Any) -> Rule:
        """429 with Retry-After, as if the weight of the minute were used up; the request is not carried out."""
        body = (
            b'{"code":-1003,"msg":"Too much request weight used; current limit is 6000 request weight per 1 MINUTE.'
            b' Please use WebSocket Streams for live updates to avoid polling the API."}'
        )
        return self.answer(429, body, taken=False, headers={"Retry-After": str(retry_after_s)}, **which)

    def banned(self, retry_after_s: int = 120, **which: Any) -> Rule:
        """418 with Retry-After, as if the address were banned; the request is not carried out."""
        body = (
            b'{"code":-1003,"msg":"Way too much request weight used; IP banned. Please use WebSocket Streams for live'
            b' updates to avoid bans."}'
        )
        return self.answer(418, body, taken=False, headers={"Retry-After": str(retry_after_s)}, **which)

    def server_error(self, status: int = 500, *, taken: bool = False, **which: Any) -> Rule:
        """500, 502, 503 or 504 as Binance words them.

        503 is -1001 and 504 is -1007, whose "execution status unknown" is meant: say with ``taken`` what became of it.
        """
        return self.answer(status, _SERVER_ERRORS.get(status, HTML), taken=taken, **which)

    def refused(self, code: int, message: str, **which: Any) -> Rule:
        """400 with one of Binance's codes; the request is not carried out."""
        return self.answer(400, b'{"code":%d,"msg":"%b"}' % (code, message.encode()), taken=False, **which)

    def out_of_step(self, **which: Any) -> Rule:
        """-1021, as if the client's clock were wrong; the request is not carried out."""
        return self.refused(-1021, "Timestamp for this request is outside of the recvWindow.", **which)

    def not_visible(self, **which: Any) -> Rule:
        """-2013 for an order that is there, as where a look-up meets a server that has not heard of it yet."""
        return self.refused(-2013, "Order does not exist.", **which)

    def fill_first(self, **which: Any) -> Rule:
        """Fill what is left of the resting order that a request names, before the request is carried out."""
        return self._on_request("fill_first", {}, which)

    def html(self, status: int = 200, *, taken: bool = False, **which: Any) -> Rule:
        """Answer with a page of HTML, as a firewall in front of the exchange does."""
        return self.answer(status, HTML, taken=taken, headers={"Content-Type": "text/html"}, **which)

    def empty(self, *, taken: bool = True, **which: Any) -> Rule:
        """Answer 200 with no body."""
        return self.answer(200, b"", taken=taken, **which)

    def truncate(self, keep: float = 0.5, *, cut: bool = True, **which: Any) -> Rule:
        """Carry the request out and send only the first part of its answer.

        With ``cut`` the answer announces its whole length and the connection ends in the middle; without, the shorter
        length is announced, as by a proxy that loses the rest, and the text just ends too early.
        """
        return self._on_request("truncate", {"keep": keep, "cut": cut}, which)

    def lag(self, seconds: float, **which: Any) -> Rule:
        """Answer klines and trades as they were ``seconds`` ago, as a replica that is behind does."""
        return self._on_request("lag", {"seconds": seconds}, which)

    def skew(self, seconds: float, **which: Any) -> Rule:
        """Tell a time of the server that is ``seconds`` ahead."""
        return self._on_request("skew", {"seconds": seconds}, {"path": "/api/v3/time", **which})

    def lose(self, **which: Any) -> Rule:
        """Do not deliver the frame.

        Parameters
        ----------
        **which
            ``stream`` (such as 'btcusdt@kline_1m'; 'user' for user data), ``event`` (its ``e``), ``connection`` (the
            connection's number), ``where``, ``nth`` and ``times``, as for every rule on frames.
        """
        return self._on_frame("lose", {}, which)

    def duplicate(self, copies: int = 1, **which: Any) -> Rule:
        """Deliver the frame ``copies`` times more."""
        return self._on_frame("duplicate", {"copies": copies}, which)

    def delay(self, seconds: float, **which: Any) -> Rule:
        """Deliver the frame ``seconds`` late; later frames overtake it."""
        return self._on_frame("delay", {"seconds": seconds}, which)

    def reorder(self, behind: int = 1, **which: Any) -> Rule:
        """Deliver the frame after the next ``behind`` frames of its connection."""
        return self._on_frame("reorder", {"behind": behind}, which)

    def garble(self, body: bytes = b'{"e":', **which: Any) -> Rule:
        """Deliver ``body`` in place of the frame's text."""
        return self._on_frame("garble", {"body": body}, which)

    def amend(self, seconds: float, change: Change, **which: Any) -> Rule:
        """Deliver the frame, and ``seconds`` later one more with the event that ``change`` makes of its event."""
        return self._on_frame("amend", {"seconds": seconds, "change": change}, which)

    def close(self, code: int = 1000, **which: Any) -> Rule:
        """Close the connection with ``code`` instead of delivering the frame."""
        return self._on_frame("close", {"code": code}, which)

    def abort(self, **which: Any) -> Rule:
        """Cut the connection (TCP reset, seen as 1006) instead of delivering the frame."""
        return self._on_frame("abort", {}, which)

    def stall(self, **which: Any) -> Rule:
        """Leave the connection half open from this frame on: nothing more is sent or read, pings stay unanswered."""
        return self._on_frame("stall", {}, which)

    def refuse_connect(self, status: int = 503, **which: Any) -> Rule:
        """Answer the WebSocket handshake with ``status``; ``socket`` may say 'market' or 'user'."""
        return self.add(_rule("connect", "refuse", {"status": status}, which, ("socket",)))

    def delay_connect(self, seconds: float, **which: Any) -> Rule:
        """Answer the WebSocket handshake ``seconds`` late."""
        return self.add(_rule("connect", "delay", {"seconds": seconds}, which, ("socket",)))

    def accept_and_close(self, code: int = 1008, **which: Any) -> Rule:
        """Accept the WebSocket handshake and close with ``code`` at once."""
        return self.add(_rule("connect", "close", {"code": code}, which, ("socket",)))

    def refuse_stream(self, code: int = 2, message: str = "Invalid request: invalid stream", **which: Any) -> Rule:
        """Refuse the whole subscribe message that names a ``stream``, as for a market that is not there."""
        return self.add(_rule("subscribe", "refuse", {"code": code, "message": message}, which, ("stream",)))


_SERVER_ERRORS = {
    500: b'{"code":-1000,"msg":"An unknown error occurred while processing the request."}',
    503: b'{"code":-1001,"msg":"Internal error; unable to process your request. Please try again."}',
    504: b'{"code":-1007,"msg":"Timeout waiting for response from backend server. Send status unknown; execution status'
    b' unknown."}',
}


def _rule(
    target: Target, action: str, args: Mapping[str, Any], which: Mapping[str, Any], fields: tuple[str, ...]
) -> Rule:
    """Sort a caller's keywords into what to match and when to fire; an unknown one is an error, not a rule for all."""
    unknown = set(which) - {*fields, "where", "nth", "times"}
    if unknown:
        offered = ", ".join((*fields, "where", "nth", "times"))
        raise TypeError(f"{sorted(unknown)} cannot choose a {target}; use {offered}.")
    match = {key: which[key] for key in fields if which.get(key) is not None}
    return Rule(target, action, which.get("nth", 1), which.get("times", 1), match, which.get("where"), args)

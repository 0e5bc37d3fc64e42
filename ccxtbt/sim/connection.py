"""One WebSocket connection of a client, as the server holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from aiohttp import WSMsgType, web

Socket = Literal["market", "user"]
# What a client may leave unread before it is cut off, in bytes.
_MAX_BACKLOG = 64 << 20


def frame(payload: bytes, opcode: int = WSMsgType.TEXT) -> bytes:
    """Return a whole unmasked WebSocket frame: the same bytes go to every connection that receives it."""
    size = len(payload)
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((size,)) + payload
    if size < 65_536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


def framed(payload: bytes, stream: str | None) -> bytes:
    """Return the frame of an event, wrapped with its stream's name where a connection wants it."""
    return frame(payload if stream is None else b'{"stream":"%b","data":%b}' % (stream.encode(), payload))


class Connection:
    """What the server knows of a client's WebSocket connection, and how it sends.

    Frames are collected by `send` and written together by `flush`, without waiting for the client.

    Attributes
    ----------
    number : int
        Counts the server's connections from 1.
    socket : {'market', 'user'}
        Market streams, or the ws-api with its user streams.
    path : str
        What the client connected to, with the query.
    opened_ms, pinged_ms, ponged_ms : int
        Times on the simulator's clock.
    streams : dict of str to None
        Subscribed market streams, in order.
    usdm : bool
        Whether it is connected to the futures exchange.
    combined : bool
        Whether market frames are wrapped with their stream's name.
    accounts : dict of int to str
        API keys of the user streams, by subscription id.
    stalled : bool
        Half open: nothing is sent or read any more.
    sent : int
        Frames written so far, control frames not counted.
    """

    def __init__(
        self,
        number: int,
        socket: Socket,
        path: str,
        address: str,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        now_ms: int,
        latency_s: float,
        want_flush: Callable[[Connection], None],
    ) -> None:
        self.number = number
        self.socket = socket
        self.path = path
        self.address = address
        self.opened_ms = self.pinged_ms = self.ponged_ms = now_ms
        self.streams: dict[str, None] = {}
        self.usdm = False
        self.combined = False
        self.accounts: dict[int, str] = {}
        self.next_subscription = 0
        self.stalled = False
        self.sent = 0
        self._ws = ws
        self._transport = transport
        self._latency_s = latency_s
        self._want_flush = want_flush
        self._outbox: list[bytes] = []
        self._held: list[tuple[int, bytes]] = []
        self._closing: asyncio.Task[bool] | None = None

    def send(self, data: bytes) -> None:
        """Queue a whole frame for the next `flush`."""
        if self.stalled or self._closing is not None:
            return
        if not self._outbox:
            self._want_flush(self)
        self._outbox.append(data)
        self.sent += 1
        if self._held:
            self._release()

    def hold(self, data: bytes, behind: int) -> None:
        """Queue a frame behind the next `behind` frames."""
        self._held.append((self.sent + behind, data))

    def _release(self) -> None:
        due = [data for after, data in self._held if after <= self.sent]
        self._held = [entry for entry in self._held if entry[0] > self.sent]
        self._outbox.extend(due)
        self.sent += len(due)

    def flush(self) -> None:
        """Write what is queued, `latency_s` late."""
        data = b"".join(self._outbox)
        self._outbox.clear()
        if not data:
            return
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._write, data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.stalled or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > _MAX_BACKLOG:
            self._transport.abort()

    def control(self, opcode: int, payload: bytes) -> None:
        """Send a ping or pong at once."""
        if not self.stalled and self._closing is None:
            self._write(frame(payload, opcode))

    def close(self, code: int, reason: str = "") -> None:
        """Send what is queued, then a close frame; the TCP connection ends with the client's answer or after 1 s."""
        if self._closing is None and not self.stalled:
            self.flush()
            self._closing = asyncio.get_running_loop().create_task(
                self._ws.close(code=code, message=reason.encode()), name=f"close connection {self.number}"
            )

    def abort(self) -> None:
        """Cut the TCP connection (reset); what is queued is lost."""
        self._outbox.clear()
        self._transport.abort()

    def stall(self) -> None:
        """Leave the connection half open for ever: the client's bytes stay unread, its frames unsent."""
        self.flush()
        self.stalled = True
        self._transport.pause_reading()

    async def closed(self) -> None:
        """Wait until a `close` in progress is over."""
        if self._closing is not None:
            await asyncio.wait([self._closing])

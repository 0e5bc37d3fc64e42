"""ccxt's own WebSocket client as ours: several connections to one address, a pump, and a tap before the parser."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, Self

from aiohttp import WSMsgType
from ccxt import NetworkError
from ccxt.async_support.base.ws.client import MSG_SIZE_OVERHEAD, Client

from ccxtbt.exchange.lanes import Lane
from ccxtbt.exchange.limiter import Limiter

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """Who wants to know that its subscribe message has left this machine.

    One that has a method ``refused(error)`` is also told where the exchange refuses the message and ccxt tells nobody.
    """

    def sent(self) -> None:
        """Take the news; runs on the I/O thread."""


# Raw frame -> True if it was taken and ccxt is not to see it.
FrameTap = Callable[[str | bytes], bool]


class FrameReader(Protocol):
    """What stands between the socket and aiohttp's reader of WebSocket frames, and takes those that it knows.

    Attributes
    ----------
    heard_s : float
        When the connection last said anything, in seconds of ``time.monotonic``.
    """

    heard_s: float

    def before(self, inner: Any) -> Self:
        """Give what is not taken to `inner`, aiohttp's reader."""

    def feed_eof(self) -> None:
        """Tell `inner` that the connection has ended."""

    def mute(self) -> None:
        """Take nothing any more."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what came from the socket; as aiohttp's reader does, return whether it is no WebSocket, and b''."""


# ccxt sends a subscription from callbacks that inherit the context of the `watch_*` call: this is how the message
# that leaves is matched to the call that made it, for any exchange.
SENDER: ContextVar[Sender | None] = ContextVar("SENDER", default=None)


def _drop(data: str | bytes) -> bool:
    return True


def _see(future: Any) -> None:
    if not future.cancelled():
        future.exception()


class Wire:
    """A socket of our own: what is watched in its context shares no connection with anything else.

    ccxt keeps one connection an address. A wire's name becomes the fragment of the address, which never leaves this
    machine, so that several connections to one address, old and new ones too, live side by side.

    Parameters
    ----------
    name : str
        Unlike that of any other wire of this exchange.
    ping_s : float
        Longest time between two pings.

    Attributes
    ----------
    tap : callable or None
        Sees each raw frame before ccxt does; True: ccxt is not to see it.
    reader : callable or None
        Makes what sees the bytes of a new connection before aiohttp does.
    """

    def __init__(self, name: str, ping_s: float) -> None:
        self.name = name
        self.ping_s = ping_s
        self.tap: FrameTap | None = None
        self.reader: Callable[[], FrameReader] | None = None
        self.clients: list[TappedClient] = []

    @property
    def heard_s(self) -> float | None:
        """When the quietest connection last said anything, in seconds of the event loop; None before there is one."""
        return min((client.last_heard_s for client in self.clients), default=None)

    @property
    def is_open(self) -> bool:
        """Whether its connections are there, one at least."""
        return bool(self.clients) and all(client.is_open for client in self.clients)

    @property
    def has_ended(self) -> bool:
        """Whether one of its connections was there and is no more."""
        return any(client.over for client in self.clients)

    def refused(self, sender: Sender) -> None:
        """Forget what `sender` subscribed to, so that the same can be asked for in another message."""
        for client in self.clients:
            client.subscriptions.forget(sender)

    def mute(self) -> None:
        """Drop whatever still comes."""
        for client in self.clients:
            client.tap = _drop
            if client.reader is not None:
                client.reader.mute()

    def break_off(self, reason: str) -> None:
        """Take the connections for dead: whoever watches on them hears it as of any other break."""
        broken, self.clients = self.clients, []
        for client in broken:
            client.on_error(NetworkError(reason))

    async def close(self) -> None:
        """End the connections; what is watched on them must be cancelled before."""
        for client in self.clients:
            client.abandoned = True
            client.forget()
            await client.close()


WIRE: ContextVar[Wire | None] = ContextVar("WIRE", default=None)


class Subscriptions(dict[str, Any]):
    """What a client of ccxt takes for subscribed, and who subscribed to it."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[str, Sender | None] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self._owners[name] = SENDER.get()
        super().__setitem__(name, value)

    def forget(self, owner: Sender) -> None:
        """Forget what `owner` subscribed to: ccxt sends the message again when it is next asked."""
        for name in [name for name, whose in self._owners.items() if whose is owner]:
            del self._owners[name]
            self.pop(name, None)


class TappedClient(Client):
    """ccxt's WebSocket client with a pump of ours and a tap before ccxt's parser."""

    tap: FrameTap | None = None
    reader: FrameReader | None = None
    abandoned = False
    over = False
    heard_s = 0.0

    @classmethod
    def adopt(
        cls, client: Any, messages: Limiter, tap: FrameTap | None, wire: Wire | None, forget: Callable[[], None]
    ) -> None:
        """Make a fresh client of ccxt one of ours.

        Parameters
        ----------
        client : Client
            As ccxt made it, not yet connected.
        messages : Limiter
            The budget of messages of this connection.
        tap : callable or None
            Sees raw frames first, unless the wire has a tap of its own.
        wire : Wire or None
            The wire it is part of.
        forget : callable
            Lets the exchange make another client when it is next asked for this one.
        """
        client.__class__ = cls
        client.heard_s = client.asyncio_loop.time()
        client.messages = messages
        client.forget = forget
        client.asked = {}
        client.subscriptions = Subscriptions()
        client.tap = tap
        if wire is not None:
            client.tap = wire.tap
            client.reader = wire.reader() if wire.reader is not None else None
            client.keepAlive = min(client.keepAlive, wire.ping_s * 1000)
            # It takes the place of one to the same address; one that has ended, to an address with an old key, is gone.
            wire.clients = [each for each in wire.clients if each.url != client.url and not each.over]
            wire.clients.append(client)

    def on_close(self, code: int) -> None:
        """Tell of the connection's end once: ccxt forgets by the address, which a new client may have by now."""
        if not self.over:
            self.over = True
            super().on_close(code)

    def on_error(self, error: Exception) -> None:
        """Tell of a failure that ends the connection."""
        self.over = True
        super().on_error(error)

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return not self.over and not self.closed()

    @property
    def last_heard_s(self) -> float:
        """When the connection last said anything, in seconds of the event loop."""
        return self.heard_s if self.reader is None else max(self.heard_s, self.reader.heard_s)

    async def create_connection(self, session: Any) -> Any:
        """Connect, and put the wire's reader between the socket and aiohttp's.

        Where aiohttp has no such place any more, all frames come through the tap.
        """
        connection = await super().create_connection(session)
        protocol = getattr(connection._conn, "protocol", None)
        inner = getattr(protocol, "_payload_parser", None)
        if self.reader is not None and protocol is not None and inner is not None:
            protocol._payload_parser = self.reader.before(inner)
        return connection

    def future(self, message_hash: str) -> Any:
        """Return ccxt's promise of an answer; its failure counts as seen, for ccxt itself leaves some unawaited."""
        fresh = message_hash not in self.futures
        future = super().future(message_hash)
        if fresh:
            future.add_done_callback(_see)
        return future

    def reject(self, result: Any, message_hash: str | None = None) -> Any:
        """Fail what waits for an answer; a refusal that nobody waits for goes to whom the message was from."""
        if message_hash is not None and message_hash not in self.futures:
            refused = getattr(self.asked.pop(str(message_hash), None), "refused", None)
            if refused is not None:
                refused(result)
                return result
        return super().reject(result, message_hash)

    async def open(self, session: Any, backoff_delay: float = 0) -> None:
        """Connect; a connection that nobody wants any more when it is there is closed."""
        await super().open(session, backoff_delay)
        if self.abandoned:
            await self.aiohttp_close()

    def receive_loop(self) -> None:
        """Read frames until the connection ends: one task for its whole life instead of one a frame."""
        self.pump = self.asyncio_loop.create_task(self._pump(), name=f"pump {self.url}")

    async def _pump(self) -> None:
        try:
            while not self.closed():
                self._drain()
                self._take(await self.receive())
        except Exception as error:  # noqa: BLE001  # whatever it is, what waits must hear that nothing comes any more
            self.on_error(NetworkError(f"{type(error).__name__}: {error}"))
        else:
            self.on_close(1006)

    def _drain(self) -> None:
        """Take all frames that wait but the last.

        aiohttp counts the bytes that wait, to hold the server back, and counts down only what is read through
        `receive`: that one message carries the sizes of all before it.
        """
        waiting = self.buffer
        if not waiting or len(waiting) < 2:
            return
        taken, tap, text = 0, self.tap, WSMsgType.TEXT
        while len(waiting) > 1:
            message, size = waiting.popleft()
            taken += size + MSG_SIZE_OVERHEAD
            if tap is None or message.type is not text or not tap(message.data):
                self._handle(message)
        message, size = waiting[0]
        waiting[0] = (message, size + taken)

    def _take(self, message: Any) -> None:
        """Offer a frame to the tap, then to ccxt."""
        self.heard_s = self.asyncio_loop.time()
        if self.tap is None or message.type is not WSMsgType.TEXT or not self.tap(message.data):
            self._handle(message)

    def _handle(self, message: Any) -> None:
        """Give a frame to ccxt; one that cannot be read ends nothing."""
        try:
            self.handle_message(message)
        except Exception as error:  # noqa: BLE001  # ccxt's parsers raise anything on a garbled frame
            logger.warning("A frame from %s cannot be read (%s).", self.url, error)

    def handle_text_or_binary_message(self, data: str | bytes) -> None:
        """Offer what was packed in a binary frame to the tap, then to ccxt."""
        # Text was offered when it came.
        if isinstance(data, str) or self.tap is None or not self.tap(data):
            super().handle_text_or_binary_message(data)

    async def send(self, message: Any) -> Any:
        """Send a message when it is its turn, and tell the subscription that made it."""
        sender = SENDER.get()
        await self.messages.acquire(1.0, Lane.LIVE)
        number = message.get("id") if isinstance(message, dict) else None
        if number is not None and sender is not None:
            self.asked[str(number)] = sender
        result = await super().send(message)
        if sender is not None:
            sender.sent()
        return result

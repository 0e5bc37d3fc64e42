"""WebSocket frames to bars and trades, without a parse of the whole."""

from typing import Any, Self, final

def binance_kline(
    frame: str | bytes,
) -> tuple[str, str, int, float, float, float, float, float, bool] | None:
    """Read a kline of Binance, raw or from a combined stream.

    Parameters
    ----------
    frame : str or bytes
        The text of a frame.

    Returns
    -------
    tuple or None
        Market, timeframe, open time in ms, open, high, low, close, volume, closed. None for a frame of another kind,
        and for one that is not written as Binance writes it (spaces, escapes, unquoted prices, missing values, numbers
        of 20 digits): a JSON parser has to say what that one is. Prices are those of ``float``.
    """

def binance_trade(frame: str | bytes) -> tuple[str, str, int, float, float, str, int] | None:
    """Read a trade or an aggregate trade of Binance, raw or from a combined stream.

    Parameters
    ----------
    frame : str or bytes
        The text of a frame.

    Returns
    -------
    tuple or None
        Market, id, time in ms, price, amount, the taker's side ('buy' or 'sell'), how many trades were put together
        (1 where that is not told). None for a frame of another kind, for one that is not written as Binance writes
        it, and for a price of 0, which says that there was no trade.
    """

@final
class BinanceReader:
    """A reader of WebSocket frames before aiohttp's, which takes Binance's klines and trades and leaves the rest.

    It takes whole text frames, neither masked nor compressed, in one pass over the bytes: no text, no message and no
    dict is made of them. Nothing else is read: any other frame, and one whose market nobody has subscribed to, goes on
    byte by byte as it came, in its order.

    Parameters
    ----------
    bars : dict of str
        By market and timeframe with a space between them, what has ``frame(bar, closed, now_s)``.
    wide : dict of str
        The same, for those that want the extra values too.
    trades : dict of str
        By market, what has ``trades(trades, source, now_s)``.
    source : object
        Handed to ``trades``.
    bar : type
        A named tuple of the eight values of a bar: ts_ms, open, high, low, close, volume, origin, extra. The last is
        (trades, quote volume, taker-buy volume) for what is in `wide`, if its frame has them all; else ().
    trade : type
        A named tuple of the six values of a trade: id, ts_ms, price, amount, side, parts.
    origin : object
        That of each bar.

    Attributes
    ----------
    heard_s : float
        When bytes last came, in seconds of ``time.monotonic``: one look at the clock a chunk.
    """

    heard_s: float

    def __init__(
        self,
        bars: dict[str, Any],
        wide: dict[str, Any],
        trades: dict[str, Any],
        source: object,
        bar: type[tuple[Any, ...]],
        trade: type[tuple[Any, ...]],
        origin: object,
    ) -> None: ...
    def before(self, inner: Any) -> Self:
        """Give what is not taken to `inner`, aiohttp's reader."""

    def feed_eof(self) -> None:
        """Tell `inner` that the connection has ended."""

    def mute(self) -> None:
        """Take nothing any more."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Read what came from the socket.

        Returns
        -------
        tuple of (bool, bytes)
            As `inner` does: whether what came is no WebSocket, and b''.

        Raises
        ------
        Exception
            What a subscription raised.
        """

"""WebSocket frames to the values of a bar, without a parse of the whole."""

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

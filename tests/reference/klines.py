"""Bars from trades, as plainly as can be: trades in a heap for each bar, then one look at each heap."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def bounds(interval, ts_ms):
    """(open, end) in ms of the bar that holds a moment, by the calendar."""
    moment = EPOCH + timedelta(milliseconds=ts_ms)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    count, unit = int(interval[:-1]), interval[-1]
    if unit == "M":
        first = midnight.replace(day=1)
        end = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    elif unit == "w":
        first = midnight - timedelta(days=moment.weekday())
        end = first + timedelta(days=7)
    else:
        length = timedelta(seconds=count * UNITS[unit])
        first = EPOCH + (moment - EPOCH) // length * length
        end = first + length
    return tuple((at - EPOCH) // timedelta(milliseconds=1) for at in (first, end))


def bars(interval, trades):
    """{open_ms: fields} of trades (id, ts_ms, price, qty, buyer_is_maker) in order."""
    heaps = {}
    for trade in trades:
        heaps.setdefault(bounds(interval, trade[1]), []).append(trade)
    found = {}
    for (open_ms, end_ms), inside in heaps.items():
        prices = [price for _, _, price, _, _ in inside]
        taken = [(price, qty) for _, _, price, qty, buyer_is_maker in inside if not buyer_is_maker]
        found[open_ms] = {
            "end_ms": end_ms,
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": sum(qty for _, _, _, qty, _ in inside),
            "quote": sum(price * qty for _, _, price, qty, _ in inside),
            "n_trades": len(inside),
            "taker_volume": sum(qty for _, qty in taken),
            "taker_quote": sum(price * qty for price, qty in taken),
            "first_id": inside[0][0],
            "last_id": inside[-1][0],
        }
    return found


def with_flat_bars(interval, found, last_ms):
    """The same with a flat bar in every silent place from the first bar up to the one that holds `last_ms`."""
    if not found:
        return {}
    filled = {}
    at_ms = min(found)
    close = None
    while at_ms <= last_ms:
        end_ms = bounds(interval, at_ms)[1]
        if at_ms not in found:
            zero = dict.fromkeys(("volume", "quote", "n_trades", "taker_volume", "taker_quote"), 0)
            prices = dict.fromkeys(("open", "high", "low", "close"), close)
            filled[at_ms] = {"end_ms": end_ms, "first_id": -1, "last_id": -1} | prices | zero
        else:
            filled[at_ms] = found[at_ms]
            close = found[at_ms]["close"]
        at_ms = end_ms
    return filled

"""Places of extra values in rows that exchanges have sent: a quote volume is a volume times a price of its bar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ccxtbt.exchange.exchanges import TABLE
from ccxtbt.exchange.facts import Extras
from recording import recorded

# Exchange, kind of market, the sample's method of ccxt.
SAMPLES = [
    ("binance", "spot", "fetch_ohlcv"),
    ("okx", "inverse", "fetch_ohlcv"),
    ("kraken", "spot", "fetch_ohlcv"),
    ("kucoin", "spot", "fetch_spot_ohlcv"),
    ("htx", "spot", "fetch_ohlcv"),
]


def rows_in(value: Any, fields: tuple[int | str, ...]) -> Iterator[Any]:
    """All rows of an answer that have these places."""
    if isinstance(value, dict):
        if set(fields) <= set(value):
            yield value
        else:
            for part in value.values():
                yield from rows_in(part, fields)
    elif isinstance(value, list):
        if value and not isinstance(value[0], (list, dict)) and isinstance(fields[0], int):
            yield value
        else:
            for part in value:
                yield from rows_in(part, fields)


def known_of(exchange_id: str, kind: str) -> Extras:
    return next(known for known in TABLE[exchange_id].extras if kind in known.kinds)


def check(known: Extras, row: Any) -> None:
    _, _, high, low, _, volume = (float(row[place]) for place in known.fields)
    extra = {name: float(row[place]) for name, place in known.places.items()}
    if "quote_volume" in extra:
        assert volume * low * (1 - 1e-6) <= extra["quote_volume"] <= volume * high * (1 + 1e-6)
    if "trades" in extra:
        assert extra["trades"] == int(extra["trades"])
        assert (extra["trades"] == 0) == (volume == 0)
    if "taker_buy_volume" in extra:
        assert 0 <= extra["taker_buy_volume"] <= volume


@pytest.mark.parametrize(("exchange_id", "kind", "method"), SAMPLES)
def test_samples_of_ccxt(exchange_id: str, kind: str, method: str) -> None:
    known = known_of(exchange_id, kind)
    answers = json.loads(recorded(f"ccxt_samples/rest/{exchange_id}.json").read_text())[method]
    rows = list(rows_in(answers[0]["json"], known.fields))
    assert rows
    for row in rows:
        check(known, row)


def test_a_day_of_kraken() -> None:
    known = known_of("kraken", "spot")
    rows = list(rows_in(json.loads(recorded("captures/kraken_ohlc.json").read_text())["result"], known.fields))
    assert len(rows) > 700
    for row in rows:
        check(known, row)


def test_frames_of_binances_futures() -> None:
    seen = 0
    with recorded("captures/binance_futures.ws.txt").open() as lines:
        for line in lines:
            if '"e":"kline"' not in line:
                continue
            message = json.loads(line[line.index("{") :])
            kline = message.get("data", message)["k"]
            volume, quote, taken = (float(kline[key]) for key in "vqV")
            assert volume * float(kline["l"]) * (1 - 1e-6) <= quote <= volume * float(kline["h"]) * (1 + 1e-6)
            assert 0 <= taken <= volume
            assert (kline["n"] == 0) == (volume == 0)
            seen += 1
    assert seen

"""Values beside prices and volume, decoded from an answer, against the same read by the standard library."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt._ohlcv import Layout, decode
from ccxtbt.exchange.columns import extra_layout, with_extra
from ccxtbt.exchange.exchanges import TABLE
from ccxtbt.exchange.facts import Extra, Extras

KNOWN = [extras for facts in TABLE.values() for extras in facts.extras]
NUMBER = st.builds("{}.{}".format, st.integers(0, 10**9), st.text("0123456789", min_size=1, max_size=8))
VALUE = NUMBER | NUMBER.map(float) | st.integers(0, 10**12)
MINUTE_MS = 60_000


@st.composite
def answers(draw: Any) -> tuple[Extras, tuple[str, ...], list[Any]]:
    """A way to write bars, the extra values wanted, and rows in any order, each minute at most once."""
    known = draw(st.sampled_from(KNOWN))
    names = tuple(draw(st.permutations(draw(st.lists(st.sampled_from(sorted(known.places)), min_size=1, unique=True)))))
    minutes = draw(st.lists(st.integers(0, 10**7), max_size=30, unique=True))
    order = draw(st.sampled_from(["oldest", "newest", "any"]))
    if order != "any":
        minutes.sort(reverse=order == "newest")
    rows: list[Any] = []
    for minute in minutes:
        if isinstance(known.fields[0], int):
            width = max(*known.fields, *known.places.values()) + 1
            row: Any = [draw(VALUE) for _ in range(width + draw(st.integers(0, 3)))]
        else:
            row = {key: draw(VALUE) for key in draw(st.permutations([*known.fields, *known.places.values(), "x"]))}
        row[known.fields[0]] = minute * MINUTE_MS
        rows.append(row)
    return known, names, rows


def wanted(known: Extras, names: tuple[str, ...], rows: list[Any]) -> list[list[float]]:
    """Plainly: the five and the extra values of each row, oldest first."""
    places = [*known.fields[1:], *(known.places[name] for name in names)]
    return [[float(row[place]) for place in places] for row in sorted(rows, key=lambda row: row[known.fields[0]])]


def read(known: Extras, names: tuple[str, ...], rows: list[Any]) -> Any:
    layout = Layout(known.fields, rows="lists" if isinstance(known.fields[0], int) else "dicts", path=("result",))
    extra = Extra(names, known.fields, tuple(known.places[name] for name in names), known.streamed)
    body = json.dumps({"result": rows})
    return with_extra(decode(body, layout), decode(body, extra_layout(layout, extra)), extra)


@given(answers())
def test_extra_rows_are_what_a_json_parser_gives(answer: Any) -> None:
    known, names, rows = answer
    ts_ms, values = read(known, names, rows)
    assert ts_ms.tolist() == sorted(row[known.fields[0]] for row in rows)
    assert values.flags.c_contiguous
    assert values.shape == (5 + len(names), len(rows))
    assert values.T.tolist() == wanted(known, names, rows)


@given(answers(), st.data())
def test_bars_that_have_none_have_nan(answer: Any, data: Any) -> None:
    known, names, rows = answer
    ts_ms, values = read(known, names, rows)
    kept = np.array([data.draw(st.booleans()) for _ in range(len(ts_ms))], bool)
    extra = Extra(names, known.fields, tuple(known.places[name] for name in names), known.streamed)
    beside = ts_ms[kept], np.vstack([values[5:], values[:5]])[:5, kept]
    _, found = with_extra((ts_ms, values[:5]), beside, extra)
    for at in range(len(ts_ms)):
        assert all(math.isnan(value) for value in found[5:, at]) or kept[at]
        assert not kept[at] or found[:, at].tolist() == values[:, at].tolist()
    _, without = with_extra((ts_ms, values[:5]), None, extra)
    assert np.isnan(without[5:]).all()

"""What strategies keep: values that come back as what they were, whole or not at all."""

import datetime as dt
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.errors import ConfigError
from ccxtbt.trading.journal import Journal
from ccxtbt.trading.state import State

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), each, max_size=3),
    max_leaves=10,
)  # fmt: skip


@pytest.fixture
def state():
    made = State()
    made.begin({}, None)
    return made


@given(JSON)
def test_what_json_holds_comes_back_as_it_was(value):
    state, changes = State(), []
    state.begin({}, changes.append)
    state["it"] = value
    assert state["it"] == value
    (kept,) = changes
    again = State()
    again.begin(kept.texts, None)
    assert again["it"] == value
    assert type(again["it"]) is type(value)


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], (1, 2), {1: 2}, {1}, dt.datetime(2026, 1, 1), Decimal(1), 2**70, object(), b"x"],  # noqa: DTZ001
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused_and_changes_nothing(state, value):
    state["it"] = 1
    with pytest.raises(ConfigError, match=rf"store.state\['it'\] cannot keep a {type(value).__name__}"):
        state["it"] = value
    with pytest.raises(ConfigError):
        state.update(other=2, it=value)
    assert dict(state) == {"it": 1}


def test_names_are_text(state):
    with pytest.raises(ConfigError, match="a name is text"):
        state[1] = 2


def test_it_is_a_mapping_whose_values_are_copies(state):
    state.update({"a": [1]}, b=2)
    state["a"].append(2)
    assert state["a"] == [1]
    assert state.get("c", 3) == state.setdefault("c", 3) == state.pop("c") == 3
    assert list(state) == ["a", "b"]
    assert "c" not in state
    del state["b"]
    with pytest.raises(KeyError):
        del state["b"]
    state.clear()
    assert len(state) == 0


def test_outside_of_a_run_it_takes_nothing(state):
    state["a"] = 1
    state.end()
    assert state["a"] == 1
    with pytest.raises(ConfigError, match="no run is on"):
        state["a"] = 2
    with pytest.raises(ConfigError, match="once a run has begun"):
        dict(State())


def test_the_next_run_finds_it_again_and_several_names_are_one_change(tmp_path):
    state = State()

    def opened():
        journal = Journal(tmp_path / "journal.sqlite", "binance-abc", print, lambda: 0)
        journal.open()
        state.begin(journal.state, journal.note)
        return journal

    journal = opened()
    state.update(a={"b": [1.5, None]}, c="x")
    state["gone"] = 1
    del state["gone"]
    state["c"] = "y"
    journal.close()
    state.end()
    journal = opened()
    assert dict(state) == {"a": {"b": [1.5, None]}, "c": "y"}
    state.clear()
    journal.close()
    opened().close()
    assert dict(state) == {}

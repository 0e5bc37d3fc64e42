"""The rules of faults: what they count, when they fire, what they note."""

from __future__ import annotations

import pytest

from ccxtbt.sim.faults import Faults

ORDER = {"method": "POST", "path": "/api/v3/order", "symbol": "BTCUSDT"}
TIME = {"method": "GET", "path": "/api/v3/time", "symbol": None}


def actions(faults: Faults, fields: dict, content: dict | None = None, target: str = "request") -> list[str]:
    return [rule.action for rule in faults.take(target, fields, content or {})]


def test_a_rule_fires_on_its_nth_match_only():
    faults = Faults()
    rule = faults.drop_answer(path="/api/v3/order", method="POST", nth=3)
    fired = [bool(actions(faults, fields)) for fields in (ORDER, TIME, ORDER, TIME, ORDER, ORDER)]
    assert fired == [False, False, False, False, True, False]
    assert rule.seen == 4


@pytest.mark.parametrize(("times", "expected"), [(1, 1), (2, 2), (0, 4)])
def test_times_says_how_many_in_a_row(times, expected):
    faults = Faults()
    faults.html(nth=2, times=times)
    assert sum(bool(actions(faults, TIME)) for _ in range(5)) == expected


def test_rules_count_apart_and_fire_in_the_order_they_were_added():
    faults = Faults()
    faults.delay_answer(0.1, symbol="BTCUSDT", nth=2)
    faults.drop_answer(nth=2)
    assert actions(faults, TIME) == []
    assert actions(faults, ORDER) == ["drop_answer"]
    assert actions(faults, ORDER) == ["delay_answer"]


def test_where_sees_the_content():
    faults = Faults()
    faults.lose(event="executionReport", where=lambda event: event["x"] == "TRADE")
    frame = {"stream": "user", "event": "executionReport", "connection": 1}
    assert actions(faults, frame, {"x": "NEW"}, "frame") == []
    assert actions(faults, frame, {"x": "TRADE"}, "frame") == ["lose"]


def test_the_log_says_what_fired_and_when():
    faults = Faults()
    faults.now_ms = lambda: 1234
    faults.close(1008, stream="btcusdt@trade", nth=2)
    frame = {"stream": "btcusdt@trade", "event": "trade", "connection": 7}
    for _ in range(3):
        faults.take("frame", frame, {})
    assert faults.log == [(2, 1234, "frame close", "btcusdt@trade trade 7")]


def test_a_misspelt_choice_is_an_error_and_not_a_rule_for_everything():
    faults = Faults()
    with pytest.raises(TypeError, match=r"\['pth'\] cannot choose a request"):
        faults.drop_answer(pth="/api/v3/order")
    with pytest.raises(ValueError, match="nth counts from 1"):
        faults.lose(nth=0)
    assert actions(faults, ORDER) == []


def test_clear_ends_the_rules_and_keeps_the_log():
    faults = Faults()
    faults.accept_and_close(times=0)
    assert actions(faults, {"socket": "market"}, target="connect") == ["close"]
    faults.clear()
    assert actions(faults, {"socket": "market"}, target="connect") == []
    assert len(faults.log) == 1


@pytest.mark.parametrize(
    ("add", "taken"),
    [
        (lambda faults: faults.rate_limited(), False),
        (lambda faults: faults.banned(), False),
        (lambda faults: faults.server_error(503), False),
        (lambda faults: faults.server_error(504, taken=True), True),
        (lambda faults: faults.empty(), True),
    ],
)
def test_each_answer_says_whether_the_request_was_carried_out(add, taken):
    assert add(Faults()).args["taken"] is taken


def test_a_rule_counts_how_often_it_came_to_pass():
    faults = Faults()
    rule = faults.not_visible(nth=2, times=2)
    for _ in range(5):
        actions(faults, ORDER)
    assert (rule.seen, rule.fired) == (5, 2)

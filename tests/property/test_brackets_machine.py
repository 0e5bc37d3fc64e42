"""Brackets against an exchange where everything may happen at any time."""

from copy import deepcopy
from decimal import Decimal

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from reference.brackets import World

KINDS = [("stop", "limit"), ("limit", "stop"), ("stop",), ("limit",)]


def explore(world, depth):
    """Follow every event from here, to `depth`, and each time let things come to their end; return how many ends."""
    last = deepcopy(world)
    last.finish()
    if not depth:
        return 1
    count = 1
    for index in range(len(world.events())):
        branch = deepcopy(world)
        branch.happen(*branch.events()[index])
        count += explore(branch, depth - 1)
    return count


@pytest.mark.parametrize("lists", [False, True], ids=["in turns", "as a list"])
@pytest.mark.parametrize("quota", [False, True], ids=["with an entry", "of a position"])
def test_every_course_of_a_small_bracket(quota, lists):
    assert explore(World.make(lots=2, quota=quota, trouble=1, lists=lists), 4) > 1_000


@pytest.mark.soak
@pytest.mark.parametrize("lists", [False, True], ids=["in turns", "as a list"])
@pytest.mark.parametrize("quota", [False, True], ids=["with an entry", "of a position"])
def test_every_longer_course_of_a_small_bracket(quota, lists):
    assert explore(World.make(lots=2, quota=quota, trouble=2, lists=lists), 6) > 40_000


@settings(max_examples=500, deadline=None)
@given(
    choices=st.lists(st.integers(0, 10**4), max_size=60),
    kinds=st.sampled_from(KINDS),
    side=st.sampled_from(["buy", "sell"]),
    lots=st.integers(1, 200),
    fee=st.sampled_from(["0", "0", "0.001", "0.03"]),
    least=st.sampled_from(["0", "0.01", "0.1", "5"]),
    quota=st.booleans(),
    trouble=st.integers(0, 4),
    lists=st.booleans(),
)
def test_never_two_exits_for_one_entry_and_always_an_end(choices, trouble, **asked):
    world = World.make(trouble=trouble, **asked)
    for choice in choices:
        events = world.events()
        name, on = events[choice % len(events)]
        note(f"{name} {on}")
        world.happen(name, on)
    world.finish()


@settings(max_examples=100, deadline=None)
@given(choices=st.lists(st.integers(0, 10**4), max_size=40), lots=st.integers(1, 50), lists=st.booleans())
def test_without_trouble_all_that_was_entered_is_taken_out(choices, lots, lists):
    world = World.make(lots=lots, trouble=0, lists=lists)
    for choice in choices:
        events = [event for event in world.events() if event[0] != "user cancels"]
        world.happen(*events[choice % len(events)])
    world.finish()
    assert world.entered == world.exited == lots * Decimal("0.01") or world.parent.left
    assert world.entered == world.exited

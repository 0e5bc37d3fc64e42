"""The compiled budgets against the plain reference, and the one promise that matters: no window ever holds too much."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt import _ratelimit
from reference.ratelimit import Bucket, Budget, Window, most_in_any_window

MS = 1_000_000

weights = st.one_of(st.integers(0, 12), st.integers(1, 60).map(lambda n: n / 2))
lanes = st.integers(0, 2)


@st.composite
def rule_pairs(draw):
    """The same rule for both sides; a bucket's refill is a whole number of nanoseconds a millionth of weight."""
    limit = draw(st.integers(1, 20))
    per_call = draw(st.booleans())
    order, live = draw(st.integers(0, limit - 1)), 0
    if order < limit - 1:
        live = draw(st.integers(0, limit - 1 - order))
    caps = (limit, limit - order, limit - order - live)
    reserves = {"order_reserve": order, "live_reserve": live, "per_call": per_call}
    if draw(st.booleans()):
        window_ns, margin_ns = draw(st.integers(1, 200)), draw(st.integers(0, 20))
        rule = _ratelimit.Rule(limit, window_ns, margin_ns=margin_ns, **reserves)
        return rule, Window(limit, window_ns + margin_ns, caps, per_call)
    rate = draw(st.integers(1, 30))
    window_ns = rate * draw(st.integers(1, 5)) * MS
    rule = _ratelimit.Rule(rate, window_ns, burst=limit, **reserves)
    return rule, Bucket(rate, window_ns, limit, caps, per_call)


@st.composite
def scripts(draw):
    pairs = draw(st.lists(rule_pairs(), min_size=1, max_size=3))
    spans = [rule.window_ns + rule.margin_ns for rule, _ in pairs]
    ticks = st.one_of(
        st.integers(0, 30), st.sampled_from(spans), st.sampled_from(spans).map(lambda n: n // 3), st.just(-5)
    )
    step = st.one_of(
        st.tuples(st.just("tick"), ticks),
        st.tuples(st.just("take"), weights, lanes),
        st.tuples(st.just("promise"), weights, lanes),
        st.tuples(st.just("confirm"), st.integers(0, 9)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("debit"), weights),
        st.tuples(st.just("freeze"), st.integers(0, 60)),
        st.tuples(st.just("observe"), st.integers(0, 25), st.integers(0, 250)),
        st.tuples(st.just("until free"), weights, lanes),
    )
    return pairs, draw(st.lists(step, max_size=60))


class Run:
    """One script, played on both sides."""

    def __init__(self, pairs):
        self.rules = [rule for rule, _ in pairs]
        self.real = _ratelimit.Budget(self.rules)
        self.plain = Budget([rule for _, rule in pairs])
        self.now_ns = 1_000
        self.promised = []
        self.sent = []

    def tick(self, by_ns):
        self.now_ns = max(self.now_ns + by_ns, 0)

    def take(self, weight, lane):
        wait_ns = self.real.take(weight, self.now_ns, lane)
        assert wait_ns == self.plain.take(weight, self.now_ns, lane)
        if wait_ns == 0:
            self.sent.append((self.plain.now_ns, weight))
        return wait_ns

    def until_free(self, weight, lane):
        """The wait that is told is exact: one nanosecond less is too early, unless promises are in the way."""
        wait_ns = self.real.wait_ns(weight, self.now_ns, lane)
        assert wait_ns == self.plain.wait_ns(weight, self.now_ns, lane)
        if wait_ns and not self.promised:
            self.now_ns = self.plain.now_ns + wait_ns - 1
            assert self.real.wait_ns(weight, self.now_ns, lane) == 1
            self.now_ns += 1
            assert self.take(weight, lane) == 0

    def promise(self, weight, lane):
        ticket = _ratelimit.Ticket(weight, lane)
        self.real.join(ticket)
        wait_ns = self.real.promise(ticket, self.now_ns)
        assert wait_ns == self.plain.promise(weight, self.now_ns, lane)
        if wait_ns == 0:
            self.promised.append((ticket, weight))
        else:
            assert self.real.leave(ticket)

    def confirm(self, which):
        if self.promised:
            ticket, weight = self.promised.pop(which % len(self.promised))
            out = self.real.confirm(ticket, self.now_ns)
            assert out == self.plain.confirm(weight, self.now_ns)
            if out:
                self.sent.append((self.plain.now_ns, weight))
            else:
                assert ticket.is_waiting
                assert self.real.leave(ticket)

    def leave(self, which):
        if self.promised:
            ticket, weight = self.promised.pop(which % len(self.promised))
            assert self.real.leave(ticket)
            assert not self.real.leave(ticket)
            self.plain.release(weight)

    def debit(self, weight):
        self.real.debit(weight, self.now_ns)
        self.plain.debit(weight, self.now_ns)

    def freeze(self, by_ns):
        self.real.freeze(self.now_ns + by_ns)
        self.plain.freeze(self.now_ns + by_ns)

    def observe(self, used, age_ns):
        rule, plain = self.rules[0], self.plain.rules[0]
        same = [r for r in self.rules if (r.window_ns, r.per_call) == (rule.window_ns, rule.per_call)]
        if rule.burst is not None or len(same) > 1:
            return
        now_ns = max(self.now_ns, self.plain.now_ns)
        missing = self.real.observe(used, rule.window_ns, now_ns - age_ns, now_ns, rule.per_call)
        assert missing == self.plain.observe(plain, used, age_ns, now_ns)

    def check(self):
        """What both know, and the sliding look over every grant."""
        now_ns = self.plain.at(self.now_ns)
        state = self.real.state(now_ns)
        for rule, plain, told in zip(self.rules, self.plain.rules, state[5], strict=True):
            assert told[3] == plain.held
            assert told[2] == pytest.approx(float(plain.used(now_ns)), abs=2e-6)
            if isinstance(plain, Window):
                sent = [(t, 1 if plain.per_call else w) for t, w in self.sent]
                fair = [(t, w) for t, w in sent if w <= plain.limit]
                assert most_in_any_window(fair, plain.span_ns) <= rule.limit


@given(scripts())
@settings(max_examples=300, deadline=None)
def test_budget_is_the_reference(script):
    pairs, steps = script
    run = Run(pairs)
    for name, *arguments in steps:
        getattr(run, name.replace(" ", "_"))(*arguments)
    run.check()


@given(
    st.floats(0.5, 5000),
    st.integers(1, 10**11),
    st.floats(0.5, 5000),
    st.lists(st.tuples(st.integers(0, 10**10), st.floats(0.01, 50)), min_size=1, max_size=80),
)
@settings(max_examples=200, deadline=None)
def test_a_bucket_lets_no_more_through_than_burst_and_refill(limit, window_ns, burst, calls):
    budget = _ratelimit.Budget([_ratelimit.Rule(limit, window_ns, burst=burst)])
    now_ns, sent = 0, []
    for pause_ns, weight in calls:
        now_ns += pause_ns
        if budget.take(weight, now_ns) == 0:
            sent.append((now_ns, weight))
    for i, (start_ns, _) in enumerate(sent):
        total = 0.0
        for time_ns, weight in sent[i:]:
            total += weight
            # One call above the burst goes out of a full bucket, and the next one waits for it.
            # Time is told in whole nanoseconds.
            allowed = max(burst, sent[i][1]) + limit * (time_ns - start_ns + 1) / window_ns
            assert total <= allowed * (1 + 1e-9) + 1e-3 or weight > burst


@pytest.mark.parametrize(("limit", "window_ns"), [(6_000, 60_000 * MS), (20_000, 86_400_000 * MS), (37, 1_000 * MS)])
@pytest.mark.parametrize("seed", range(3))
def test_a_greedy_caller_gets_the_whole_budget_and_no_more(limit, window_ns, seed):
    """At uneven times and weights, over windows that hold more grants than are kept one by one."""
    print("seed", seed)
    dice = random.Random(seed)
    budget = _ratelimit.Budget([_ratelimit.Rule(limit, window_ns)])
    now_ns, sent, end_ns = 0, [], 8 * window_ns
    while now_ns < end_ns:
        weight = dice.choice((0.5, 1, 1, 2)) if limit > 100 else 1
        wait_ns = budget.take(weight, now_ns)
        if wait_ns:
            now_ns += wait_ns + dice.randrange(window_ns // limit)
        else:
            sent.append((now_ns, weight))
            now_ns += dice.randrange(window_ns // limit // 4)
    assert most_in_any_window(sent, window_ns) <= limit
    assert sum(weight for _, weight in sent) >= 0.98 * limit * 8


@pytest.mark.parametrize("limit", [100, 6_000, 20_000])
def test_a_steady_caller_under_the_limit_never_waits(limit):
    """Nor where grants share entries: sharing costs a 4096th of the window at most."""
    window_ns = 60_000 * MS
    budget = _ratelimit.Budget([_ratelimit.Rule(limit, window_ns)])
    step_ns = window_ns * 102 // (limit * 100)
    assert {budget.take(1, at * step_ns) for at in range(3 * limit)} == {0}


@pytest.mark.parametrize("seed", range(3))
def test_waves_of_grants_age_one_by_one(seed):
    """The log grows while it is half used up, and wraps around."""
    print("seed", seed)
    dice = random.Random(seed)
    span_ns = 1_000
    budget = _ratelimit.Budget([_ratelimit.Rule(150, span_ns)])
    plain = Budget([Window(150, span_ns, (150,) * 3)])
    now_ns = 0
    for step in range(1_200):
        now_ns += dice.randrange(40 if step % 300 < 150 else 8)
        assert budget.take(1, now_ns) == plain.take(1, now_ns, 2)
        assert budget.state(now_ns)[5][0][2] == plain.rules[0].used(now_ns)


@pytest.mark.parametrize("seed", range(3))
def test_late_wake_ups_never_let_too_much_out(seed):
    """Promised callers wake up to three windows late, in any order, or not at all."""
    print("seed", seed)
    dice = random.Random(seed)
    limit, window_ns = 10, 1_000
    budget = _ratelimit.Budget([_ratelimit.Rule(limit, window_ns)])
    now_ns, sent, woken = 0, [], []
    for _ in range(20_000):
        now_ns += dice.randrange(120)
        ticket = _ratelimit.Ticket(dice.choice((1, 1, 2, 3)), 2)
        budget.join(ticket)
        if budget.promise(ticket, now_ns) == 0:
            woken.append((now_ns + dice.choice((1, 50, 3_000)), ticket))
        else:
            budget.leave(ticket)
        for due_ns, ticket in list(woken):
            if due_ns <= now_ns:
                woken.remove((due_ns, ticket))
                if dice.random() < 0.9:
                    assert budget.confirm(ticket, now_ns)
                    sent.append((now_ns, ticket.weight))
                else:
                    budget.leave(ticket)
    assert len(sent) > 1_000
    assert most_in_any_window(sent, window_ns) == limit

"""Budgets of requests, as slowly and plainly as can be: every answer is looked up in the list of all that happened."""

from fractions import Fraction


class Window:
    """At most `limit` in any `span_ns`: the sum of everything that went out less than a span ago."""

    def __init__(self, limit, span_ns, caps, per_call=False):
        self.limit, self.span_ns, self.caps, self.per_call = limit, span_ns, caps, per_call
        self.sent = []
        self.held = 0

    def used(self, now_ns):
        return sum(weight for until_ns, _, weight in self.sent if until_ns > now_ns)

    def fits(self, weight, now_ns, lane, used, held):
        if weight == 0:
            return True
        if weight > self.caps[lane]:
            return used + held == 0
        return used + held + weight <= self.caps[lane]

    def wait_ns(self, weight, now_ns, lane):
        """The first moment at which it fits; promises count as though they went out now."""
        moments = sorted({now_ns, now_ns + self.span_ns, *(u for u, _, _ in self.sent if u > now_ns)})
        for moment in moments:
            held = self.held if moment < now_ns + self.span_ns else 0
            if self.fits(weight, moment, lane, self.used(moment), held):
                return moment - now_ns
        raise AssertionError("a window that is never empty again")

    def spend(self, weight, now_ns, granted):
        times = Fraction(weight) / Fraction(self.limit) if granted and weight > self.limit else 1
        until_ns = now_ns + -(-self.span_ns * times // 1)
        if self.sent:
            until_ns = max(until_ns, max(u for u, _, _ in self.sent))
        self.sent.append((int(until_ns), now_ns, weight))

    def known(self, age_ns, now_ns):
        return sum(
            weight
            for until_ns, _, weight in self.sent
            if until_ns > now_ns and until_ns - self.span_ns >= now_ns - age_ns
        )


class Bucket:
    """A bucket of `burst` that is refilled by `limit` a `window_ns`: the level is a plain fraction."""

    def __init__(self, limit, window_ns, burst, caps, per_call=False):
        self.rate = Fraction(limit) / window_ns
        self.burst, self.caps, self.per_call = burst, caps, per_call
        self.owed, self.at_ns = Fraction(0), 0
        self.held = 0

    def used(self, now_ns):
        return max(self.owed - (now_ns - self.at_ns) * self.rate, Fraction(0))

    def wait_ns(self, weight, now_ns, lane):
        room = max(self.caps[lane] - weight, 0)
        over = self.used(now_ns) + self.held - room
        return max(-(-over / self.rate // 1), 0) if weight else 0

    def spend(self, weight, now_ns, granted):
        self.owed, self.at_ns = self.used(now_ns) + weight, now_ns

    def known(self, age_ns, now_ns):
        return self.used(now_ns)


class Budget:
    """Several rules granted as one."""

    def __init__(self, rules):
        self.rules = rules
        self.frozen_until_ns = 0
        self.now_ns = 0

    def at(self, now_ns):
        self.now_ns = max(self.now_ns, now_ns)
        return self.now_ns

    def cost(self, rule, weight):
        return Fraction(1 if rule.per_call else weight)

    def wait_ns(self, weight, now_ns, lane):
        now_ns = self.at(now_ns)
        waits = [rule.wait_ns(self.cost(rule, weight), now_ns, lane) for rule in self.rules]
        return max([self.frozen_until_ns - now_ns, 0, *waits])

    def take(self, weight, now_ns, lane):
        wait_ns = self.wait_ns(weight, now_ns, lane)
        if wait_ns == 0:
            for rule in self.rules:
                rule.spend(self.cost(rule, weight), self.now_ns, True)
        return wait_ns

    def promise(self, weight, now_ns, lane):
        wait_ns = self.wait_ns(weight, now_ns, lane)
        if wait_ns == 0:
            self.release(weight, -1)
        return wait_ns

    def release(self, weight, sign=1):
        for rule in self.rules:
            rule.held -= sign * self.cost(rule, weight)

    def confirm(self, weight, now_ns):
        now_ns = self.at(now_ns)
        self.release(weight)
        if self.frozen_until_ns > now_ns:
            return False
        for rule in self.rules:
            rule.spend(self.cost(rule, weight), now_ns, True)
        return True

    def debit(self, weight, now_ns):
        now_ns = self.at(now_ns)
        for rule in self.rules:
            if not rule.per_call:
                rule.spend(Fraction(weight), now_ns, False)

    def observe(self, rule, used, age_ns, now_ns):
        now_ns = self.at(now_ns)
        missing = max(used - rule.known(age_ns, now_ns), 0)
        if missing:
            rule.spend(missing, now_ns, False)
        return missing

    def freeze(self, until_ns):
        self.frozen_until_ns = max(self.frozen_until_ns, until_ns)


def most_in_any_window(sent, span_ns):
    """The largest weight of `sent`, pairs of (time, weight), within less than `span_ns`: looked at from every grant."""
    sent = sorted(sent)
    most, total, first = 0, 0, 0
    for time_ns, weight in sent:
        total += weight
        while time_ns - sent[first][0] >= span_ns:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most

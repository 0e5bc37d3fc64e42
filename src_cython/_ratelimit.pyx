"""Budgets of requests: exact sliding windows and token buckets, granted together or not at all.

The contract of this boundary: weights are validated (finite, not negative) and counted in millionths, times are int64
nanoseconds of the caller's monotonic clock, and every answer follows from the arguments alone, so a virtual clock
proves what a real one will do. No method waits, does I/O, or runs Python code while it changes a budget: under the GIL
each is one atomic step, without it the object's own critical section makes it one.
"""
# What is granted is counted at the moment it goes out, never at the moment it was planned. A caller that is there
# takes (`take`): checked and stamped in one step. A caller that must first be woken is promised its weight (`promise`):
# a promise occupies every window without ageing until `confirm` stamps it on waking, so a late wake-up makes its
# successors later and never lets more than the limit into a window.

cimport cython
from libc.math cimport ceil, floor
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc

from ccxtbt.errors import ConfigError

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    static int64_t ccxtbt_monotonic_ns(void) {
        PyTime_t now = 0;
        (void)PyTime_MonotonicRaw(&now);
        return (int64_t)now;
    }
    #else
    static int64_t ccxtbt_monotonic_ns(void) { return (int64_t)_PyTime_GetMonotonicClock(); }
    #endif
    """
    int64_t ccxtbt_monotonic_ns() noexcept nogil

cdef enum:
    LANES = 3
    FIRST_ROOM = 16
    # Up to so many grants a window are kept one by one; beyond, those of the same 4096th of the window share an entry
    # that ages with its last grant. It bounds a window's memory (200,000 orders a day) and can only delay.
    FINE = 4096

cdef enum:
    NEW = 0
    WAITING = 1
    PROMISED = 2
    GONE = 3

cdef double UNITS = 1e6
cdef int64_t UNIT = 1000000
cdef double LARGEST = 4e12
cdef int64_t LONG_AGO_NS = -(<int64_t>1 << 62)


cdef struct Entry:
    int64_t until_ns
    int64_t units


cdef struct Meter:
    bint is_bucket
    bint per_call
    int64_t span_ns
    int64_t window_ns
    int64_t limit
    int64_t cap[LANES]
    int64_t held
    # sliding window: a ring of entries, the oldest first
    int64_t used
    Entry* ring
    int64_t room
    int64_t head
    int64_t count
    int64_t anchor_ns
    # token bucket: the time at which it will be full again
    double ns_per_unit
    int64_t full_at_ns


cdef inline int64_t refill_ns(Meter* meter, int64_t units) noexcept nogil:
    return <int64_t>ceil(<double>units * meter.ns_per_unit)


cdef inline int64_t backlog_ns(Meter* meter, int64_t now_ns) noexcept nogil:
    return meter.full_at_ns - now_ns if meter.full_at_ns > now_ns else 0


cdef inline int64_t cost_of(Meter* meter, int64_t units) noexcept nogil:
    return UNIT if meter.per_call else units


cdef inline void expire(Meter* meter, int64_t now_ns) noexcept nogil:
    while meter.count and meter.ring[meter.head].until_ns <= now_ns:
        meter.used -= meter.ring[meter.head].units
        meter.head = (meter.head + 1) & (meter.room - 1)
        meter.count -= 1


cdef bint make_room(Meter* meter) noexcept nogil:
    """Room for one more entry; False where memory is out."""
    cdef Entry* ring
    cdef int64_t i
    if meter.is_bucket or meter.count < meter.room:
        return True
    ring = <Entry*>PyMem_RawMalloc(2 * meter.room * sizeof(Entry))
    if ring == NULL:
        return False
    for i in range(meter.count):
        ring[i] = meter.ring[(meter.head + i) & (meter.room - 1)]
    PyMem_RawFree(meter.ring)
    meter.ring = ring
    meter.room *= 2
    meter.head = 0
    return True


cdef void spend(Meter* meter, int64_t units, int64_t now_ns, bint granted) noexcept nogil:
    """Count `units` as gone out at `now_ns`; `make_room` came first."""
    cdef int64_t until_ns
    cdef Entry* last
    if meter.is_bucket:
        meter.full_at_ns = now_ns + backlog_ns(meter, now_ns) + refill_ns(meter, units)
        return
    until_ns = now_ns + meter.span_ns
    if granted and units > meter.limit:
        # One call dearer than the whole window holds it for as many windows as it is worth.
        until_ns = now_ns + <int64_t>ceil(<double>meter.span_ns * (<double>units / <double>meter.limit))
    meter.used += units
    if meter.count:
        last = &meter.ring[(meter.head + meter.count - 1) & (meter.room - 1)]
        if until_ns < last.until_ns:
            until_ns = last.until_ns
        if meter.count >= FINE and now_ns - meter.anchor_ns < meter.span_ns // FINE:
            last.until_ns = until_ns
            last.units += units
            return
    meter.anchor_ns = now_ns
    last = &meter.ring[(meter.head + meter.count) & (meter.room - 1)]
    last.until_ns = until_ns
    last.units = units
    meter.count += 1


cdef int64_t meter_wait_ns(Meter* meter, int64_t units, int64_t now_ns, int lane) noexcept nogil:
    """Nanoseconds until `units` fit, 0 if they do now; promises count as though they went out now."""
    cdef int64_t cap = meter.cap[lane]
    cdef int64_t missing, i
    cdef Entry* entry
    if units == 0:
        return 0
    if meter.is_bucket:
        missing = backlog_ns(meter, now_ns) + refill_ns(meter, meter.held)
        if units <= cap:
            missing -= refill_ns(meter, cap - units)
        return missing if missing > 0 else 0
    expire(meter, now_ns)
    missing = meter.used + meter.held
    if units <= cap:
        missing -= cap - units
    if missing <= 0:
        return 0
    if missing > meter.used:
        return meter.span_ns
    for i in range(meter.count):
        entry = &meter.ring[(meter.head + i) & (meter.room - 1)]
        missing -= entry.units
        if missing <= 0:
            return entry.until_ns - now_ns
    return meter.span_ns


cdef int64_t units_of(double weight) except -1:
    if not 0.0 <= weight <= LARGEST:
        raise ConfigError(f"weight {weight!r} cannot be counted: give a finite number from 0 to {LARGEST:g}")
    return <int64_t>floor(weight * UNITS + 0.5)


cdef int lane_of(int lane) except -1:
    if not 0 <= lane < LANES:
        raise ConfigError(f"lane {lane} does not exist: 0 is orders, 1 live data, 2 history")
    return lane


@cython.final
cdef class Rule:
    """One limit: an exact sliding window, or a token bucket where `burst` is given.

    Parameters
    ----------
    limit : float
        Weight allowed in any window of `window_ns`; for a bucket, the weight refilled in that time.
    window_ns : int
        Length in nanoseconds.
    margin_ns : int, default 0
        Added to a window's length, so that requests which reach the exchange at uneven speed still keep the limit
        there. A bucket's burst shrinks by what it refills in that time, to no less than a tenth.
    burst : float, optional
        Capacity of the bucket: up to ``burst + limit * t / window_ns`` go out in any time `t`. None is a window.
    order_reserve, live_reserve : float, default 0
        Weight that only orders may use, and weight that only orders and live data may use.
    per_call : bool, default False
        Count calls instead of their weight.

    Raises
    ------
    ConfigError
        A limit, window or burst that is not positive, or a reserve that leaves nothing for history.
    """

    cdef readonly double limit
    cdef readonly int64_t window_ns
    cdef readonly int64_t margin_ns
    cdef readonly object burst
    cdef readonly double order_reserve
    cdef readonly double live_reserve
    cdef readonly bint per_call

    def __init__(
        self,
        double limit,
        int64_t window_ns,
        *,
        int64_t margin_ns=0,
        burst=None,
        double order_reserve=0.0,
        double live_reserve=0.0,
        bint per_call=False,
    ):
        cdef double capacity = limit if burst is None else burst
        if not 1.0 / UNITS <= limit <= LARGEST or not 1.0 / UNITS <= capacity <= LARGEST:
            raise ConfigError(
                f"a limit of {limit!r} with burst {burst!r} cannot be kept: give both from 1e-6 to {LARGEST:g}"
            )
        if window_ns <= 0 or margin_ns < 0 or window_ns > 1 << 56 or margin_ns > 1 << 56:
            raise ConfigError(
                f"a window of {window_ns} ns with a margin of {margin_ns} ns cannot be kept: use 1 ns to 2 years"
            )
        if not (order_reserve >= 0.0 and live_reserve >= 0.0 and order_reserve + live_reserve < capacity):
            raise ConfigError(
                f"reserves of {order_reserve!r} for orders and {live_reserve!r} for live data leave history nothing of "
                f"{capacity!r}: lower them"
            )
        self.limit = limit
        self.window_ns = window_ns
        self.margin_ns = margin_ns
        self.burst = None if burst is None else capacity
        self.order_reserve = order_reserve
        self.live_reserve = live_reserve
        self.per_call = per_call

    def __repr__(self):
        kind = "" if self.burst is None else f", burst={self.burst:g}"
        return f"Rule({self.limit:g} per {self.window_ns / 1e9:g} s{kind})"

    cdef int fill(self, Meter* meter) except -1:
        cdef double capacity = self.limit if self.burst is None else self.burst
        memset(meter, 0, sizeof(Meter))
        meter.is_bucket = self.burst is not None
        meter.per_call = self.per_call
        meter.window_ns = self.window_ns
        meter.span_ns = self.window_ns + self.margin_ns
        meter.ns_per_unit = <double>self.window_ns / (self.limit * UNITS)
        if meter.is_bucket:
            meter.span_ns = self.window_ns
            capacity = max(capacity - self.limit * self.margin_ns / self.window_ns, capacity / 10.0)
        meter.limit = <int64_t>floor(self.limit * UNITS + 0.5)
        meter.cap[0] = <int64_t>floor(capacity * UNITS + 0.5)
        meter.cap[1] = max(meter.cap[0] - <int64_t>ceil(self.order_reserve * UNITS), 1)
        meter.cap[2] = max(meter.cap[1] - <int64_t>ceil(self.live_reserve * UNITS), 1)
        if not meter.is_bucket:
            meter.room = FIRST_ROOM
            meter.ring = <Entry*>PyMem_RawMalloc(FIRST_ROOM * sizeof(Entry))
            if meter.ring == NULL:
                raise MemoryError
        return 0


cdef bint inherit(Meter* new, Meter* old, int64_t now_ns) noexcept nogil:
    """Count in `new` what `old` knows to have gone out within its time; False where memory is out."""
    cdef int64_t i, sent_ns
    cdef Entry* entry
    new.held = old.held
    if old.is_bucket:
        i = <int64_t>(<double>backlog_ns(old, now_ns) / old.ns_per_unit)
        if i:
            if not make_room(new):
                return False
            spend(new, i, now_ns, False)
        return True
    expire(old, now_ns)
    for i in range(old.count):
        entry = &old.ring[(old.head + i) & (old.room - 1)]
        sent_ns = entry.until_ns - old.span_ns
        if sent_ns > now_ns:
            sent_ns = now_ns
        if not make_room(new):
            return False
        spend(new, entry.units, sent_ns, False)
    expire(new, now_ns)
    return True


cdef void free_meters(Meter* meters, int count) noexcept nogil:
    cdef int i
    if meters != NULL:
        for i in range(count):
            PyMem_RawFree(meters[i].ring)
        PyMem_RawFree(meters)


cdef class Ticket:
    """A caller's place in a line. Only the budget that it joined changes its state.

    Parameters
    ----------
    weight : float
    lane : int
    """

    cdef readonly double weight
    cdef readonly int lane
    cdef int64_t units
    cdef int state

    def __init__(self, double weight, int lane):
        self.units = units_of(weight)
        self.weight = weight
        self.lane = lane_of(lane)

    @property
    def is_waiting(self):
        """In line."""
        return self.state == WAITING

    @property
    def is_promised(self):
        """Its weight is kept for it: it is to go out, or to leave."""
        return self.state == PROMISED


cdef class Budget:
    """Several rules granted as one: a call goes out when every rule has room for it, and is counted in all of them.

    Parameters
    ----------
    rules : sequence of Rule
        None at all allows everything (a freeze still holds).
    """

    cdef Meter* meters
    cdef int n
    cdef int64_t latest_ns
    cdef int64_t frozen_until_ns
    cdef int64_t waiting[LANES]
    cdef int64_t calls
    cdef int64_t units
    cdef int64_t external_units

    def __cinit__(self):
        self.frozen_until_ns = LONG_AGO_NS
        self.latest_ns = LONG_AGO_NS

    def __init__(self, rules=()):
        self.configure(rules, LONG_AGO_NS)

    def __dealloc__(self):
        free_meters(self.meters, self.n)

    def configure(self, rules, int64_t now_ns):
        """Replace the rules; what went out already is carried over.

        Each new rule inherits from the old rule with the same way of counting and the shortest window that covers its
        own (the longest one where none does).
        """
        cdef list given = list(rules)
        cdef int n = <int>len(given)
        cdef int i
        cdef bint ok = True
        cdef Meter* source
        cdef Meter* meters = <Meter*>PyMem_RawMalloc(max(n, 1) * sizeof(Meter))
        if meters == NULL:
            raise MemoryError
        memset(meters, 0, max(n, 1) * sizeof(Meter))
        try:
            for i in range(n):
                (<Rule?>given[i]).fill(&meters[i])
        except BaseException:
            free_meters(meters, n)
            raise
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            for i in range(n):
                source = self.closest(&meters[i])
                if source != NULL:
                    ok = inherit(&meters[i], source, now_ns) and ok
            if ok:
                self.meters, meters = meters, self.meters
                self.n, n = n, self.n
        free_meters(meters, n)
        if not ok:
            raise MemoryError

    cdef Meter* closest(self, Meter* wanted) noexcept nogil:
        cdef Meter* best = NULL
        cdef Meter* candidate
        cdef int i
        for i in range(self.n):
            candidate = &self.meters[i]
            if candidate.per_call != wanted.per_call:
                continue
            if best == NULL:
                best = candidate
            elif best.window_ns < wanted.window_ns:
                if candidate.window_ns > best.window_ns:
                    best = candidate
            elif wanted.window_ns <= candidate.window_ns < best.window_ns:
                best = candidate
        return best

    cdef inline int64_t at(self, int64_t now_ns) noexcept nogil:
        # Two threads may read the clock in one order and arrive in the other: time never runs backwards here.
        if now_ns > self.latest_ns:
            self.latest_ns = now_ns
        return self.latest_ns

    cdef int64_t find_wait(self, int64_t units, int64_t now_ns, int lane) noexcept nogil:
        cdef int64_t longest = 0
        cdef int64_t wait
        cdef int i
        if self.frozen_until_ns > now_ns:
            longest = self.frozen_until_ns - now_ns
        for i in range(self.n):
            wait = meter_wait_ns(&self.meters[i], cost_of(&self.meters[i], units), now_ns, lane)
            if wait > longest:
                longest = wait
        return longest

    cdef bint record(self, int64_t units, int64_t now_ns) noexcept nogil:
        cdef int i
        for i in range(self.n):
            if not make_room(&self.meters[i]):
                return False
        for i in range(self.n):
            spend(&self.meters[i], cost_of(&self.meters[i], units), now_ns, True)
        self.calls += 1
        self.units += units
        return True

    cdef int64_t grab(self, int64_t units, int64_t now_ns, int lane, bint last) except -1:
        """Count `units` now and answer 0, or answer the nanoseconds to wait and count nothing.

        `last`: nobody who waits may be passed.
        """
        cdef int64_t wait = 0
        cdef bint ok = True
        cdef int i
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            if last:
                for i in range(lane + 1):
                    if self.waiting[i]:
                        wait = 1
            if wait == 0:
                wait = self.find_wait(units, now_ns, lane)
                if wait == 0:
                    ok = self.record(units, now_ns)
        if not ok:
            raise MemoryError
        return wait

    def take(self, double weight, int64_t now_ns, int lane=2):
        """Let a call out now if every rule has room for it.

        Returns
        -------
        int
            0 when it was counted and may go; otherwise the nanoseconds after which it would fit if nothing else goes
            out, and nothing was counted.
        """
        return self.grab(units_of(weight), now_ns, lane_of(lane), False)

    def wait_ns(self, double weight, int64_t now_ns, int lane=2):
        """Nanoseconds until `take` would succeed if nothing else goes out; 0 is now. Changes nothing."""
        cdef int64_t units = units_of(weight)
        cdef int64_t wait
        lane_of(lane)
        with cython.critical_section(self):
            wait = self.find_wait(units, self.at(now_ns), lane)
        return wait

    cdef void occupy(self, int64_t units, int sign) noexcept nogil:
        cdef int i
        for i in range(self.n):
            self.meters[i].held += sign * cost_of(&self.meters[i], units)

    def join(self, Ticket ticket not None):
        """Let a new ticket wait: who comes later, in its lane or behind it, no longer passes `Gate`."""
        with cython.critical_section(self):
            if ticket.state == NEW:
                ticket.state = WAITING
                self.waiting[ticket.lane] += 1

    def promise(self, Ticket ticket not None, int64_t now_ns):
        """Promise its weight to a waiting ticket: it counts in every rule, unstamped, until it goes out or leaves.

        Returns
        -------
        int
            0 when promised, -1 when the ticket does not wait (any more), else the nanoseconds until it would fit.
        """
        cdef int64_t wait = -1
        with cython.critical_section(self):
            if ticket.state == WAITING:
                wait = self.find_wait(ticket.units, self.at(now_ns), ticket.lane)
                if wait == 0:
                    self.occupy(ticket.units, 1)
                    self.waiting[ticket.lane] -= 1
                    ticket.state = PROMISED
        return wait

    def confirm(self, Ticket ticket not None, int64_t now_ns):
        """Stamp what was promised: the call goes out now.

        Returns
        -------
        bool
            False while frozen: the ticket waits again, its promise is taken back.
        """
        cdef bint ok = True
        cdef bint out = False
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            if ticket.state == PROMISED:
                if self.frozen_until_ns > now_ns:
                    ticket.state = WAITING
                    self.waiting[ticket.lane] += 1
                    self.occupy(ticket.units, -1)
                else:
                    ok = self.record(ticket.units, now_ns)
                    if ok:
                        self.occupy(ticket.units, -1)
                        ticket.state = GONE
                        out = True
        if not ok:
            raise MemoryError
        return out

    def leave(self, Ticket ticket not None):
        """Give up a place in line, or what was promised.

        Returns
        -------
        bool
            Whether there was something to give up.
        """
        cdef bint left = False
        with cython.critical_section(self):
            if ticket.state == WAITING:
                self.waiting[ticket.lane] -= 1
                left = True
            elif ticket.state == PROMISED:
                self.occupy(ticket.units, -1)
                left = True
            ticket.state = GONE
        return left

    def debit(self, double weight, int64_t now_ns, int64_t window_ns=0):
        """Count weight that somebody else used, even beyond the limit.

        Parameters
        ----------
        weight : float
        now_ns : int
        window_ns : int, default 0
            Only the rules with this window; 0 is every rule that counts weight.
        """
        cdef int64_t units = units_of(weight)
        cdef bint ok = True
        cdef int i
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            for i in range(self.n):
                if self.meters[i].window_ns == window_ns or (window_ns == 0 and not self.meters[i].per_call):
                    ok = ok and make_room(&self.meters[i])
                    if ok:
                        spend(&self.meters[i], units, now_ns, False)
            self.external_units += units
        if not ok:
            raise MemoryError

    def observe(self, double used, int64_t window_ns, int64_t since_ns, int64_t now_ns, bint per_call=False):
        """Learn what the exchange has counted since `since_ns` in this window, and debit what we did not know of.

        Returns
        -------
        float
            The weight debited: what others used, or what our own costs fell short of.
        """
        cdef int64_t reported = units_of(used)
        cdef int64_t known, missing = 0
        cdef bint ok = True
        cdef int i
        cdef Meter* meter
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            for i in range(self.n):
                meter = &self.meters[i]
                if meter.window_ns != window_ns or meter.per_call != per_call:
                    continue
                known = known_since(meter, since_ns, now_ns)
                if reported > known:
                    ok = ok and make_room(meter)
                    if ok:
                        spend(meter, reported - known, now_ns, False)
                        missing = reported - known
            self.external_units += missing
        if not ok:
            raise MemoryError
        return missing / UNITS

    def freeze(self, int64_t until_ns):
        """Grant nothing before `until_ns`; an earlier time than the one in force changes nothing."""
        with cython.critical_section(self):
            if until_ns > self.frozen_until_ns:
                self.frozen_until_ns = until_ns

    def reset(self):
        """Forget everything that went out, and any freeze. Promises and lines stay."""
        cdef int i
        with cython.critical_section(self):
            self.frozen_until_ns = LONG_AGO_NS
            for i in range(self.n):
                self.meters[i].used = 0
                self.meters[i].count = 0
                self.meters[i].full_at_ns = LONG_AGO_NS

    def state(self, int64_t now_ns):
        """Everything a reader may want, at one moment.

        Returns
        -------
        tuple
            ``(frozen_ns, waiting, calls, weight, external, rules)``: nanoseconds of freeze left; calls waiting in each
            lane; calls and weight let out since the start; weight used by others; and for each rule
            ``(limit, window_ns, used, held, is_bucket, per_call)`` in units of weight.
        """
        cdef list rules = []
        cdef Meter copy
        cdef int64_t waiting[LANES]
        cdef int64_t used, frozen_ns, calls, units, external
        cdef double limit, held
        cdef int i = 0
        cdef bint more = True
        with cython.critical_section(self):
            now_ns = self.at(now_ns)
            frozen_ns = self.frozen_until_ns - now_ns if self.frozen_until_ns > now_ns else 0
            memcpy(waiting, self.waiting, sizeof(waiting))
            calls, units, external = self.calls, self.units, self.external_units
        while more:
            with cython.critical_section(self):
                more = i < self.n
                if more:
                    if not self.meters[i].is_bucket:
                        expire(&self.meters[i], now_ns)
                    copy = self.meters[i]
            if more:
                used = copy.used
                if copy.is_bucket:
                    used = <int64_t>(<double>backlog_ns(&copy, now_ns) / copy.ns_per_unit)
                limit, held = copy.limit / UNITS, copy.held / UNITS
                rules.append((limit, copy.window_ns, used / UNITS, held, bool(copy.is_bucket), bool(copy.per_call)))
                i += 1
        return (
            frozen_ns, (waiting[0], waiting[1], waiting[2]), calls, units / UNITS, external / UNITS, tuple(rules)
        )


cdef int64_t known_since(Meter* meter, int64_t since_ns, int64_t now_ns) noexcept nogil:
    """Units that went out at or after `since_ns`."""
    cdef int64_t known = 0
    cdef int64_t i
    cdef Entry* entry
    if meter.is_bucket:
        return <int64_t>(<double>backlog_ns(meter, now_ns) / meter.ns_per_unit)
    expire(meter, now_ns)
    for i in range(meter.count - 1, -1, -1):
        entry = &meter.ring[(meter.head + i) & (meter.room - 1)]
        if entry.until_ns - meter.span_ns < since_ns:
            break
        known += entry.units
    return known


cdef class Turn:
    """The right to serve the lines, which nobody waits for: ``with turn as mine`` tells whether it was free.

    Entering and leaving are single steps of C: an interrupt that arrives in between cannot leave it taken.
    """

    cdef unsigned long owner
    cdef int depth

    def __enter__(self):
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef bint mine = False
        with cython.critical_section(self):
            if self.depth == 0:
                self.owner = me
                mine = True
            if self.owner == me:
                self.depth += 1
        return mine

    def __exit__(self, kind, value, traceback):
        with cython.critical_section(self):
            if self.depth and self.owner == PyThread_get_thread_ident():
                self.depth -= 1


@cython.final
cdef class Granted:
    """The coroutine of a call that need not wait: awaiting it returns at once."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        raise kind if value is None else value

    def close(self):
        return None


cdef Granted GRANTED = Granted()


cdef class Gate:
    """The door before a budget: who finds room passes at once, everybody else is sent to the line.

    Parameters
    ----------
    rules : sequence of Rule
    clock_ns : callable, optional
        Nanoseconds of a monotonic clock; default: the clock of ``time.monotonic_ns``.

    A subclass provides ``queue(weight, lane)``, which gives the coroutine of a call that has to wait.
    """

    cdef readonly Budget budget
    cdef object clock_ns

    def __cinit__(self):
        self.budget = Budget()

    def __init__(self, rules=(), clock_ns=None):
        self.clock_ns = clock_ns
        self.budget.configure(rules, LONG_AGO_NS)

    cdef int64_t read_clock(self) except? -1:
        if self.clock_ns is None:
            return ccxtbt_monotonic_ns()
        return self.clock_ns()

    def now_ns(self):
        """Read the gate's clock: nanoseconds."""
        return self.read_clock()

    def acquire(self, double weight=1.0, int lane=2):
        """Wait until a call of this weight may go out.

        Parameters
        ----------
        weight : float, default 1.0
        lane : int, default 2
            0 orders, 1 live data, 2 history.

        Returns
        -------
        coroutine
            Await it, then send at once. Where there is room it is granted already when this method returns.
        """
        if self.budget.grab(units_of(weight), self.read_clock(), lane_of(lane), True) == 0:
            return GRANTED
        return self.queue(weight, lane)

    def try_acquire(self, double weight=1.0, int lane=2):
        """Let a call out now if there is room and nobody waits before it.

        Returns
        -------
        bool
            False: nothing was counted, and it must not go.
        """
        return self.budget.grab(units_of(weight), self.read_clock(), lane_of(lane), True) == 0

    def queue(self, double weight, int lane):
        """Give the coroutine of a call that has to wait."""
        raise NotImplementedError

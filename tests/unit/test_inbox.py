"""The one hand-over to cerebro's thread: order, waking, and who was given something."""

import threading
import time

import backtrader as bt

from ccxtbt.inbox import Inbox, inbox_of


class Taker:
    def __init__(self):
        self.taken = []

    def receive(self, item):
        self.taken.append(item)


def test_items_arrive_in_order_and_the_drain_says_who_was_reached():
    inbox, one, two = Inbox(), Taker(), Taker()
    for number in range(100):
        inbox.put(one if number % 3 else two, number)
    assert inbox.drain() == {one, two}
    assert one.taken == [number for number in range(100) if number % 3]
    assert two.taken == [number for number in range(100) if not number % 3]
    assert inbox.drain() == set()


def test_a_drain_waits_for_the_first_item_and_no_longer():
    inbox, taker = Inbox(), Taker()
    began_s = time.monotonic()
    threading.Timer(0.05, inbox.put, (taker, "late")).start()
    assert inbox.drain(10) == {taker}
    assert 0.04 < time.monotonic() - began_s < 5
    began_s = time.monotonic()
    assert inbox.drain(0.05) == set()
    assert time.monotonic() - began_s >= 0.045


def test_a_wake_ends_a_wait_and_reaches_nobody():
    inbox = Inbox()
    threading.Timer(0.05, inbox.wake).start()
    assert inbox.drain(10) == {None}


def test_what_is_put_by_many_threads_is_all_delivered_once():
    inbox, taker = Inbox(), Taker()

    def put(first):
        for number in range(first, first + 2_000):
            inbox.put(taker, number)

    threads = [threading.Thread(target=put, args=(k * 2_000,)) for k in range(4)]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + 20
    while len(taker.taken) < 8_000 and time.monotonic() < end_s:
        inbox.drain(0.1)
    for thread in threads:
        thread.join()
    assert sorted(taker.taken) == list(range(8_000))
    # Each thread's own items keep their order.
    for k in range(4):
        own = [number for number in taker.taken if number // 2_000 == k]
        assert own == sorted(own)


def test_a_cerebro_has_one_inbox():
    one, two = bt.Cerebro(), bt.Cerebro()
    assert inbox_of(one) is inbox_of(one)
    assert inbox_of(one) is not inbox_of(two)

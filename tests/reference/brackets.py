"""An exchange as a bracket sees it, and a judge: what may happen to the orders it sends, and what it must never do."""

from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal

from ccxtbt.trading.brackets import Bracket, Cancel, End, Excess, Exit, Exposed, Pair, Recalled, Send
from ccxtbt.trading.states import Accepted, Canceled, Completed, Expired, Fill, Margin, Rejected, Status

LOT = Decimal("0.01")
STOP, TARGET, HALF_WAY = Decimal(90), Decimal(110), Decimal(100)

# What becomes of the other of a list, as the bracket will hear of it.
AFTER = {
    "refuse": "hear refused", "no funds": "hear refused", "confirm cancel": "hear cancelled",
    "end unasked": "hear by hand", "expire": "hear expired",
}  # fmt: skip


@dataclass
class Leg:
    """One order at the exchange."""

    key: str
    number: int
    size: Decimal
    triggered: bool = False
    filled: Decimal = Decimal(0)
    accepted: bool = False
    cancel_asked: bool = False
    over: bool = False  # and the bracket has heard of it
    rival: "Leg | None" = None  # the other of its list
    gone: str = ""  # over at the exchange; the bracket has still to hear how
    forgotten: bool = False  # whether a cancel was asked for
    listed: str = ""  # names the list that it was sent in
    refused: bool = False

    @property
    def left(self):
        return self.size - self.filled


@dataclass
class World:
    """The exchange's side. `events` says what can happen now; `happen` lets it happen and judges the answer."""

    bracket: Bracket
    parent: Leg | None
    kinds: tuple
    side: str = "buy"
    fee: Decimal = Decimal(0)  # share of each entry's fill that is taken in base
    least: Decimal = Decimal(0)
    trouble: int = 2  # how many refusals and unasked ends may still come
    legs: list = field(default_factory=list)
    entered: Decimal = Decimal(0)
    exited: Decimal = Decimal(0)
    ended: dict = field(default_factory=dict)
    exposed: Decimal = Decimal(0)
    lost: set = field(default_factory=set)  # exits that the exchange ended or refused
    closed_by_user: bool = False
    exits: list = field(default_factory=list)
    owner: dict = field(default_factory=dict)
    price: Decimal = HALF_WAY
    lists: bool = False

    @classmethod
    def make(
        cls, *, kinds=("stop", "limit"), side="buy", lots=100, fee="0", least="0", quota=False, trouble=2, lists=False
    ):
        prices = {"stop": STOP, "limit": TARGET}
        if side == "sell":
            prices = {"stop": TARGET, "limit": STOP}
        exits = [Exit(kind, kind, prices[kind], Decimal(least)) for kind in kinds]
        size = lots * LOT
        owner = {"size": size} if quota else {"parent": "parent"}
        bracket = Bracket(exits, side=side, lot=LOT, base="BTC", lists=lists, **owner)
        parent = None if quota else Leg("parent", 0, size, accepted=True)
        world = cls(bracket, parent, kinds, side, Decimal(fee), Decimal(least), trouble, exits=exits, owner=owner)
        world.lists = lists
        if quota:
            world.entered = size
        world.judge(bracket.start())
        return world

    @property
    def live(self):
        return [leg for leg in self.legs if not leg.over]

    @property
    def working(self):
        """Orders that the exchange has, whatever the bracket has heard."""
        return [leg for leg in self.live if not leg.gone]

    @property
    def rest(self):
        return max(self.entered - self.exited, Decimal(0)).quantize(LOT, rounding=ROUND_DOWN)

    def events(self):
        """Return all that can happen now, as (name, order)."""
        found = []
        for leg in ([self.parent] if self.parent else []) + self.legs:
            if leg.over:
                continue
            if leg.gone:
                found.append((leg.gone, leg))
                continue
            if not leg.accepted:
                found.append(("accept", leg))
                if self.trouble and not (leg.rival and leg.rival.accepted):
                    found += [("refuse", leg), ("no funds", leg)]
                    if leg.key == "stop" and not leg.triggered and not leg.rival:
                        found.append(("price is through", leg))
                continue
            found += [("fill one", leg), ("fill half", leg), ("fill all", leg)]
            if leg.cancel_asked:
                found.append(("confirm cancel", leg))
            if self.trouble:
                found += [("end unasked", leg), ("expire", leg)]
            if leg.rival and leg.key == "stop":
                found.append(("trigger", leg))
        found += [("price", price) for price in (STOP, HALF_WAY, TARGET) if price != self.price]
        if not self.closed_by_user:
            found += [("user cancels", key) for key in self.kinds if key not in self.ended]
            if self.parent and not self.parent.over:
                found.append(("user cancels", "parent"))
        return found

    def happen(self, name, on):
        """Let an event happen to an order, or to a price, or to the user's mind."""
        if name == "price":
            self.price = on
            return self.judge(self.bracket.on_price(on))
        if name == "user cancels":
            self.closed_by_user = self.closed_by_user or on != "parent"
            return self.judge(self.bracket.cancel(on))
        if name == "accept":
            on.accepted = True
            return self.tell(on, Accepted())
        if name.startswith("fill"):
            portion = {"one": LOT, "half": (on.left / 2).quantize(LOT, rounding=ROUND_DOWN), "all": on.left}
            return self.fill(on, min(max(portion[name[5:]], LOT), on.left))
        if name == "trigger":
            return self.end_rival(on, "hear expired")
        on.over = True
        if name in ("refuse", "no funds", "price is through", "end unasked", "expire"):
            self.trouble -= 1
        paired = self.end_rival(on, AFTER.get(name, ""))
        unasked = name in ("end unasked", "hear by hand") and not on.cancel_asked
        if unasked or (name in ("refuse", "no funds") and not paired):
            self.lost.add(on.key)
        words = {
            "refuse": Rejected("bad"), "no funds": Margin("no funds"), "hear refused": Rejected("bad"),
            "price is through": Rejected("through", immediate=True),
            "confirm cancel": Canceled(), "hear cancelled": Canceled(),
            "end unasked": Canceled("by the exchange"), "hear by hand": Canceled("by the exchange"),
            "expire": Expired(), "hear expired": Expired(),
        }  # fmt: skip
        on.refused = isinstance(words[name], Rejected | Margin)
        others = self.working
        self.tell(on, words[name])
        if isinstance(words[name], Expired) and self.ended.get(on.key) is Status.EXPIRED:
            # Of two of a list that both expired, the one that is heard of last: nothing of the list is left.
            assert not others
            self.lost.add(on.key)
        return None

    def end_rival(self, leg, how):
        """Let the exchange end the other of a list, of which the bracket hears later; return whether there is one."""
        rival, leg.rival = leg.rival, None
        if rival is not None and how:
            rival.rival, rival.gone = None, how
        return rival is not None

    def fill(self, leg, amount):
        self.end_rival(leg, "hear expired")
        leg.filled += amount
        sign = 1 if (leg is self.parent) == (self.side == "buy") else -1
        fee = amount * self.fee if leg is self.parent and self.side == "buy" else Decimal(0)
        price = {"stop": STOP, "limit": TARGET}.get(leg.key, HALF_WAY)
        if leg is self.parent:
            self.entered += amount - fee
        else:
            self.exited += amount
        self.tell(leg, Fill(amount * sign, price, fee or None, "BTC" if fee else None))
        if not leg.left:
            leg.over = True
            self.tell(leg, Completed())

    def tell(self, leg, transition):
        self.judge(self.bracket.apply(leg.key, leg.number, transition))

    def judge(self, actions):
        for action in actions:
            match action:
                case Send():
                    self.on_send(action)
                case Pair(stop, limit):
                    assert self.lists
                    self.on_send(limit)
                    target = self.legs.pop()
                    self.on_send(stop)
                    target.rival, self.legs[-1].rival = self.legs[-1], target
                    target.listed = self.legs[-1].listed = f"list {len(self.legs)}"
                    self.legs.append(target)
                case Cancel():
                    self.on_cancel(action)
                case End():
                    self.on_end(action)
                case Exposed():
                    assert action.size == self.rest > self.exposed
                    self.exposed = action.size
                case Excess():
                    raise AssertionError("an entry was taken out twice")
        assert self.exited <= self.entered, "more was taken out than entered"
        alone = [leg for leg in self.working if leg.rival is None or leg.key == "stop"]
        open_exits = sum((leg.left for leg in alone), Decimal(0))
        assert open_exits <= self.entered - self.exited, "the exits at the exchange could take out too much"
        assert len(alone) <= 1, "two exits at the exchange that do not exclude each other"

    def restart(self):
        """Let another bracket go on with what is known of the orders, but not what was asked of them."""
        if self.bracket.done:
            return
        fresh = Bracket(self.exits, side=self.side, lot=LOT, base="BTC", lists=self.lists, **self.owner)
        sign = 1 if self.side == "buy" else -1
        members = {}
        if self.parent:
            fee = self.parent.filled * self.fee if self.side == "buy" else Decimal(0)
            told = Fill(self.parent.filled * sign, HALF_WAY, fee, "BTC")
            members["parent"] = Recalled((told,), open=not self.parent.over)
            self.parent.forgotten = True
        for key in self.kinds:
            legs = [leg for leg in self.legs if leg.key == key]
            told = tuple(Fill(-leg.filled * sign, HALF_WAY) for leg in legs)
            members[key] = Recalled(told, ended=self.ended.get(key))
            if legs:
                last = legs[-1]
                last.forgotten = True
                # What is gone at the exchange and not heard of yet is not known to this one either.
                members[key] = Recalled(
                    told,
                    open=not last.over,
                    working=last.accepted,
                    leg=last.number,
                    left=last.left,
                    triggered=last.triggered,
                    completed=not last.left,
                    traded=last.filled > 0,
                    refused=last.refused,
                    list_id=last.listed,
                    sequence=next(place for place, leg in enumerate(self.legs, 1) if leg is last),
                    ended=self.ended.get(key),
                )
        self.bracket, self.exposed = fresh, Decimal(0)
        fresh.recall(members)
        self.judge(fresh.resume())

    def on_send(self, action):
        assert action.key not in self.ended, f"{action.key} is over and was sent"
        assert not self.live, "an exit was sent while another may still trade"
        assert action.size == self.rest > 0
        assert action.size >= self.least
        assert not (action.triggered and action.key != "stop")
        assert action.leg == sum(leg.key == action.key for leg in self.legs) + 1
        self.legs.append(Leg(action.key, action.leg, action.size, action.triggered))

    def on_cancel(self, action):
        leg = self.parent if action.key == "parent" else next(each for each in self.live if each.key == action.key)
        assert leg.accepted, "a cancel before the exchange knew the order"
        assert leg.left > 0, "a cancel of what is filled already"
        assert not leg.over, "a cancel after the end"
        assert not leg.cancel_asked or leg.forgotten, "a cancel was asked for twice"
        # Of a list all is cancelled that is left.
        for each in [leg] if leg is self.parent else self.live:
            each.cancel_asked, each.forgotten = True, False

    def on_end(self, action):
        assert action.key not in self.ended, f"{action.key} ended twice"
        assert not any(leg.key == action.key for leg in self.live), f"{action.key} ended while it works"
        if action.status is Status.COMPLETED:
            assert any(leg.key == action.key and not leg.left for leg in self.legs)
        elif action.status is Status.CANCELED and action.key not in self.lost and not self.closed_by_user:
            assert self.rest < max(self.least, LOT), f"{action.key} was given up while something is held"
        self.ended[action.key] = action.status

    def finish(self):
        """Let what is under way come to its end without further trouble: asked cancels confirmed, the rest filled."""
        self.trouble = 0
        while orders := [*self.live, *([] if self.parent is None or self.parent.over else [self.parent])]:
            order = orders[0]
            name = "confirm cancel" if order.cancel_asked else "fill all" if order.accepted else "accept"
            self.happen(order.gone or name, order)
        self.verdict()

    def verdict(self):
        assert self.bracket.done, "it never ends"
        assert set(self.ended) == set(self.kinds)
        completed = [key for key, status in self.ended.items() if status is Status.COMPLETED]
        if self.closed_by_user:
            assert len(completed) <= 1
            return
        assert self.exposed == self.rest, "what is left without an exit was not reported, or wrongly"
        assert self.rest < max(self.least, LOT) or self.lost >= set(self.kinds)
        # What took out all that the market takes is completed, also where too little to be sold is left.
        assert len(completed) == (self.exited > 0) if not self.rest else len(completed) <= (self.rest < self.least)

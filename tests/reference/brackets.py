"""An exchange as a bracket sees it, and a judge: what may happen to the orders it sends, and what it must never do."""

from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal

from ccxtbt.trading.brackets import Bracket, Cancel, End, Excess, Exit, Exposed, Recalled, Send
from ccxtbt.trading.states import Accepted, Canceled, Completed, Expired, Fill, Margin, Rejected, Status

LOT = Decimal("0.01")
STOP, TARGET, HALF_WAY = Decimal(90), Decimal(110), Decimal(100)


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
    over: bool = False
    forgotten: bool = False  # whether a cancel was asked for

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

    @classmethod
    def make(cls, *, kinds=("stop", "limit"), side="buy", lots=100, fee="0", least="0", quota=False, trouble=2):
        prices = {"stop": STOP, "limit": TARGET}
        if side == "sell":
            prices = {"stop": TARGET, "limit": STOP}
        exits = [Exit(kind, kind, prices[kind], Decimal(least)) for kind in kinds]
        size = lots * LOT
        owner = {"size": size} if quota else {"parent": "parent"}
        bracket = Bracket(exits, side=side, lot=LOT, base="BTC", **owner)
        parent = None if quota else Leg("parent", 0, size, accepted=True)
        world = cls(bracket, parent, kinds, side, Decimal(fee), Decimal(least), trouble, exits=exits, owner=owner)
        if quota:
            world.entered = size
        world.judge(bracket.start())
        return world

    @property
    def live(self):
        return [leg for leg in self.legs if not leg.over]

    @property
    def rest(self):
        return max(self.entered - self.exited, Decimal(0)).quantize(LOT, rounding=ROUND_DOWN)

    def events(self):
        """Return all that can happen now, as (name, order)."""
        found = []
        for leg in ([self.parent] if self.parent else []) + self.legs:
            if leg.over:
                continue
            if not leg.accepted:
                found += [("accept", leg)] + ([("refuse", leg), ("no funds", leg)] if self.trouble else [])
                if self.trouble and leg.key == "stop" and not leg.triggered:
                    found.append(("price is through", leg))
                continue
            found += [("fill one", leg), ("fill half", leg), ("fill all", leg)]
            if leg.cancel_asked:
                found.append(("confirm cancel", leg))
            if self.trouble:
                found += [("end unasked", leg), ("expire", leg)]
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
        on.over = True
        if name != "confirm cancel":
            self.trouble -= 1
        if name in ("refuse", "no funds") or (name in ("end unasked", "expire") and not on.cancel_asked):
            self.lost.add(on.key)
        words = {
            "refuse": Rejected("bad"), "no funds": Margin("no funds"),
            "price is through": Rejected("through", immediate=True),
            "confirm cancel": Canceled(), "end unasked": Canceled("by the exchange"), "expire": Expired(),
        }  # fmt: skip
        return self.tell(on, words[name])

    def fill(self, leg, amount):
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
        open_exits = sum((leg.left for leg in self.live), Decimal(0))
        assert open_exits <= self.entered - self.exited, "the exits at the exchange could take out too much"
        assert len(self.live) <= 1, "two exits at the exchange"

    def restart(self):
        """Let another bracket go on with what is known of the orders, but not what was asked of them."""
        if self.bracket.done:
            return
        fresh = Bracket(self.exits, side=self.side, lot=LOT, base="BTC", **self.owner)
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
                members[key] = Recalled(
                    told, not last.over, last.accepted, last.number, last.left, last.triggered, not last.left,
                    self.ended.get(key),
                )  # fmt: skip
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
        leg = self.parent if action.key == "parent" else self.live[0]
        assert leg.key == action.key
        assert leg.accepted, "a cancel before the exchange knew the order"
        assert leg.left > 0, "a cancel of what is filled already"
        assert not leg.over, "a cancel after the end"
        assert not leg.cancel_asked or leg.forgotten, "a cancel was asked for twice"
        leg.cancel_asked, leg.forgotten = True, False

    def on_end(self, action):
        assert action.key not in self.ended, f"{action.key} ended twice"
        assert not any(leg.key == action.key for leg in self.live), f"{action.key} ended while it works"
        if action.status is Status.COMPLETED:
            assert any(leg.key == action.key and not leg.left for leg in self.legs)
        elif action.key not in self.lost and not self.closed_by_user:
            assert self.rest < max(self.least, LOT), f"{action.key} was given up while something is held"
        self.ended[action.key] = action.status

    def finish(self):
        """Let what is under way come to its end without further trouble: asked cancels confirmed, the rest filled."""
        self.trouble = 0
        while orders := [*self.live, *([] if self.parent is None or self.parent.over else [self.parent])]:
            order = orders[0]
            name = "confirm cancel" if order.cancel_asked else "fill all" if order.accepted else "accept"
            self.happen(name, order)
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
        assert len(completed) == (self.exited > 0 and self.rest == 0)

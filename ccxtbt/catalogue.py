"""What is known of every exchange, as the page docs/exchanges.md: read from the tables that live runs read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import backtrader as bt

from ccxtbt import ExchangeConfig
from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.adapter import ccxt_version, exchange_ids
from ccxtbt.exchange.exchanges import BARS_BY_CCXT, BARS_FAST, NO_CLIENT_IDS, TABLE, UNNAMED
from ccxtbt.exchange.offers import Offer, offer_of
from ccxtbt.market.frames import DIALECTS

HEAD = """\
# What is known of each exchange

`python -m ccxtbt exchanges` writes this page from the tables that live runs read, and from what the classes of ccxt
{version} say of themselves. What an exchange grants to an account, its key or its region is another matter.

"""

DATA = """\
## Bars and streams

*History*: **fast** is the decoder, which reads an answer's text into columns; ccxt's own reading of the first and the
last row of each answer is the proof. **ccxt** is its parser, row by row, where it computes what the rows do not hold.
Either is proved with answers that ccxt's sources quote. **learnt** shows it when bars are first fetched: fast wherever
ccxt's own code leaves no doubt of where the values stand.

*Live bars*: **final** are frames that say themselves when a bar is closed; **confirmed** are frames that do not, so
that REST has to give the same values twice after the close; **from trades** are bars built here; **polled** are read by
REST at their close. *Frames*: read by our own reader, or by ccxt's parser.

*Account*: what streams of orders, of the account's own trades and of its balance ccxt has; what has none is polled.

"""

ORDERS = """\
## Orders

Market, Limit and Close are the exchange's everywhere. A stop that an exchange cannot keep (**here**) is watched here,
and sent when the price has come: it needs this process to run. StopTrailLimit is watched here everywhere. An order that
is good until a time ends at the exchange where it can, and is cancelled here elsewhere. "—" is what ccxt's table of
features does not tell, and then the exchange is asked for it. *Fees* are the usual ones, maker's and taker's.

"""

CLIENT_IDS = """\
## Client order ids

Every order is sent once under an id of its own. Where its answer is lost, that id tells what became of it.

- **asked for**: the exchange is asked for the order by the id. It is there, or it never arrived, and then the order is
  Rejected; a strategy knows which.
- **looked for**: the id is sent as ccxt sends it, and looked for among the open and the latest orders. That can prove
  that an order is there. That it is in none of the lists proves nothing: then it stays open and in doubt, which the run
  is told of, and is not sent again.
- **none**: nothing that ccxt sends names the order. From its answer on the exchange's id serves as anywhere. Where that
  answer is lost, no look-up can tell the order from another one of the same size: it stays open and in doubt until you
  have looked at the account, and is not sent again.

A test sends orders through the class of each exchange of the last table, and sees the id arrive in the exchange's own
word for it.

"""

LIMITS = """\
## Limits that are known

From the exchanges' documentation, which `ccxtbt/exchange/exchanges.py` names for each figure. Where nobody tells a
limit of requests, ccxt's costs and `rateLimit` are kept; 100 streams on a connection, 20 in a request and 4 messages a
second are what is taken for granted of any exchange.

"""


def page() -> str:
    """Return the page."""
    offers = [offer_of(name) for name in exchange_ids()]
    traded = [offer for offer in offers if offer.has("createOrder")]
    parts = [
        HEAD.format(version=ccxt_version()),
        DATA,
        _table(
            ("exchange", "markets", "timeframes", "history", "live bars", "frames of bars", "of trades", "account"),
            map(_data, offers),
        ),
        ORDERS,
        _table(
            ("exchange", "markets", "Stop, StopLimit", "StopTrail", "good till a time", "fees"),
            (_orders(offer, kind) for offer in traded for kind in offer.kinds if kind in {"spot", "swap"}),
        ),
        CLIENT_IDS,
        _table(("exchange", "orders are", "parameter of ccxt", "form"), map(_client_ids, traded)),
        LIMITS,
        _table(
            ("exchange", "weight of requests", "new orders", "streams: connection", "request", "messages"),
            map(_limits, (offer for offer in offers if offer.exchange_id in TABLE)),
        ),
    ]
    return "".join(parts).rstrip() + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _data(offer: Offer) -> Sequence[str]:
    name = offer.exchange_id
    dialect = DIALECTS.get(name)
    streamed = offer.has("watchOHLCV") or offer.has("watchOHLCVForSymbols")
    traded = offer.has("watchTrades") or offer.has("watchTradesForSymbols")
    ours = dialect is not None and dialect.bars is not None
    history = "fast" if name in BARS_FAST else "ccxt" if name in BARS_BY_CCXT else "learnt"
    live = "final" if ours and dialect is not None and dialect.says_closed else "confirmed"
    if not streamed:
        live = "from trades" if traded else "polled" if offer.timeframes else "none"
    account = [word for word in ("Orders", "MyTrades", "Balance") if offer.has(f"watch{word}")]
    return (
        name,
        ", ".join(offer.kinds),
        ", ".join(offer.timeframes) or "none",
        history if offer.timeframes else "none",
        live,
        ("ours" if ours else "ccxt") if streamed else "none",
        ("ours" if dialect is not None else "ccxt") if traded else "none",
        ", ".join(account).replace("MyTrades", "trades").lower() or "polled",
    )


def _orders(offer: Offer, kind: str) -> Sequence[str]:
    name = offer.exchange_id
    told = offer.features(kind, "createOrder") is not None
    native = ExchangeConfig.supports_order_type(name, bt.Order.Stop, kind)
    trails = ExchangeConfig.supports_order_type(name, bt.Order.StopTrail, kind)
    params = ExchangeConfig.get_params(name, kind)
    by = " or ".join(param.removeprefix("trailing").lower() for param in params.get("trailing", ()))
    try:
        told_fees = ExchangeConfig.get_fees(name, kind)
        fees = ", ".join(f"{100 * told_fees[side]:.4g}%" for side in ("maker", "taker"))
    except NotOfferedError:
        fees = "in its markets"
    return (
        name,
        kind,
        (f"exchange (`{params['trigger']}`)" if native else "here") if told else "—",
        f"exchange (by {by})" if trails else "here",
        f"exchange (`{params['expiry']}`)" if "expiry" in params else "here",
        fees,
    )


def _client_ids(offer: Offer) -> Sequence[str]:
    name, facts = offer.exchange_id, offer.facts
    if name in NO_CLIENT_IDS:
        return name, "none", "none", "none"
    ways: dict[str, list[str]] = {}
    for kind in offer.kinds:
        asked, unnamed = kind in facts.client_id_lookup, kind in UNNAMED.get(name, ())
        ways.setdefault("asked for" if asked else "none" if unnamed else "looked for", []).append(kind)
    how = [f"{way} ({', '.join(kinds)})" for way, kinds in ways.items()]
    form = f"{facts.client_id_form}, {facts.client_id_length} characters"
    prefix = f", beginning with `{facts.client_id_prefix}`" if facts.client_id_prefix else ""
    return name, "; ".join(how), f"`{facts.client_id_param}`", form + prefix


def _limits(offer: Offer) -> Sequence[str]:
    facts = offer.facts
    messages = (facts.socket_messages,) if facts.socket_messages else ()
    return (
        offer.exchange_id,
        _windows(facts.rest_windows) or "ccxt's",
        _windows(facts.order_windows) or "ccxt's",
        f"{facts.streams_per_socket:,}",
        str(facts.streams_per_request),
        _windows(messages) or "not known",
    )


def _windows(windows: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{limit:,} in {window_ms / 1_000:,g} s" for limit, window_ms in windows)

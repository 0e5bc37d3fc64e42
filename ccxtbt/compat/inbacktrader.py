"""Our classes where backtrader's own stores, brokers and feeds are, and where cloudQuant's backtrader had them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import backtrader as bt

from ccxtbt import ccxtbroker, ccxtfeed, ccxtstore
from ccxtbt.compat import cloudquant

# Module of cloudQuant's backtrader -> the module here that has its names.
MODULES: dict[str, Any] = {
    "backtrader.stores.ccxtstore": ccxtstore,
    "backtrader.brokers.ccxtbroker": ccxtbroker,
    "backtrader.feeds.ccxtfeed": ccxtfeed,
    "backtrader.feeds.ccxtfeed_funding": ccxtfeed,
    "backtrader.ccxt": cloudquant,
    "backtrader.ccxt.config": cloudquant,
    "backtrader.ccxt.config_helper": cloudquant,
    "backtrader.ccxt.orders": cloudquant,
    "backtrader.ccxt.orders.bracket": cloudquant,
    "backtrader.ccxt.ratelimit": cloudquant,
    "backtrader.ccxt.threading": cloudquant,
    "backtrader.ccxt.websocket": cloudquant,
}


def install() -> None:
    """Make ``bt.stores.CCXTStore``, ``from backtrader.feeds import CCXTFeed`` and the like mean our classes."""
    bt.stores.CCXTStore = ccxtstore.CCXTStore
    bt.brokers.CCXTBroker = ccxtbroker.CCXTBroker
    bt.feeds.CCXTFeed = ccxtfeed.CCXTFeed
    bt.feeds.CCXTFeedWithFunding = ccxtfeed.CCXTFeedWithFunding
    for name, module in MODULES.items():
        sys.modules.setdefault(name, module)
        parent, _, child = name.rpartition(".")
        owner = sys.modules[parent]
        # Under backtrader's own packages only: a module of ours keeps its own attributes.
        if owner.__name__.startswith("backtrader") and not isinstance(getattr(owner, child, None), ModuleType):
            setattr(owner, child, module)

"""Run a backtrader strategy on any exchange that ccxt knows."""

from importlib.util import find_spec

from ccxtbt.errors import UnbuiltError

if missing := [
    name for name in ("_bars", "_frames", "_lines", "_ohlcv", "_ratelimit") if find_spec(f"ccxtbt.{name}") is None
]:
    raise UnbuiltError(
        f"The compiled part of ccxtbt is missing ({', '.join(missing)}): install the package with pip, or build it in "
        "a checkout with 'pip install -e .'."
    )

from ccxtbt.bracketorders import BracketOrder, BracketOrderManager, BracketState
from ccxtbt.ccxtbroker import CCXTBroker
from ccxtbt.ccxtfeed import CCXTFeed, CCXTFeedWithFunding, CCXTFeedWithVolumes
from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.compat.exchangeconfig import ExchangeConfig
from ccxtbt.compat.ratelimiter import RateLimiter
from ccxtbt.compat.threadedbroker import ThreadedBroker
from ccxtbt.compat.threadeddatafeed import ThreadedDataFeed
from ccxtbt.compat.websocket import CCXTWebSocket
from ccxtbt.compat.websocketfeed import WebSocketFeed
from ccxtbt.exchange.retry import retry_with_backoff

__all__ = [
    "BracketOrder",
    "BracketOrderManager",
    "BracketState",
    "CCXTBroker",
    "CCXTFeed",
    "CCXTFeedWithFunding",
    "CCXTFeedWithVolumes",
    "CCXTOrder",
    "CCXTStore",
    "CCXTWebSocket",
    "ExchangeConfig",
    "RateLimiter",
    "ThreadedBroker",
    "ThreadedDataFeed",
    "WebSocketFeed",
    "retry_with_backoff",
]
__version__ = "0.1.0"

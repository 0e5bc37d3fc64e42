"""What scripts import from `backtrader.ccxt`, where cloudQuant's modules were."""

from ccxtbt.bracketorders import BracketOrder, BracketOrderManager, BracketState
from ccxtbt.compat.credentials import load_ccxt_config_from_env
from ccxtbt.compat.exchangeconfig import ExchangeConfig
from ccxtbt.compat.managers import DataUpdate, OrderUpdate, ThreadedDataManager, ThreadedOrderManager
from ccxtbt.compat.ratelimiter import RateLimiter
from ccxtbt.compat.websocketmanager import CCXTWebSocketManager
from ccxtbt.exchange.retry import retry_with_backoff

__all__ = [
    "BracketOrder",
    "BracketOrderManager",
    "BracketState",
    "CCXTWebSocketManager",
    "DataUpdate",
    "ExchangeConfig",
    "OrderUpdate",
    "RateLimiter",
    "ThreadedDataManager",
    "ThreadedOrderManager",
    "load_ccxt_config_from_env",
    "retry_with_backoff",
]

"""Request weights and limits of Binance's USD-M futures, as tables; see `binance_limits`."""

from __future__ import annotations

from ccxtbt.sim.binance_limits import Limits, Weight, by_limit, by_symbols

#: Weight of each request by (method, path).
WEIGHTS: dict[tuple[str, str], Weight] = {
    ("GET", "/fapi/v1/ping"): 1,
    ("GET", "/fapi/v1/time"): 1,
    ("GET", "/fapi/v1/exchangeInfo"): 1,
    ("GET", "/fapi/v1/depth"): by_limit(500, (50, 2), (100, 5), (500, 10), (1000, 20)),
    ("GET", "/fapi/v1/trades"): 5,
    ("GET", "/fapi/v1/historicalTrades"): 20,
    ("GET", "/fapi/v1/aggTrades"): 20,
    ("GET", "/fapi/v1/klines"): by_limit(500, (99, 1), (499, 2), (1000, 5), (1500, 10)),
    ("GET", "/fapi/v1/markPriceKlines"): by_limit(500, (99, 1), (499, 2), (1000, 5), (1500, 10)),
    ("GET", "/fapi/v1/premiumIndex"): by_symbols(1, 10),
    # These two share a limit of their own on Binance, which is not counted here.
    ("GET", "/fapi/v1/fundingRate"): 0,
    ("GET", "/fapi/v1/fundingInfo"): 0,
    ("GET", "/fapi/v1/ticker/24hr"): by_symbols(1, 40),
    ("GET", "/fapi/v1/ticker/price"): by_symbols(1, 2),
    ("GET", "/fapi/v2/ticker/price"): by_symbols(1, 2),
    ("GET", "/fapi/v1/ticker/bookTicker"): by_symbols(2, 5),
    # New orders weigh nothing: they are counted instead.
    ("POST", "/fapi/v1/order"): 0,
    ("GET", "/fapi/v1/order"): 1,
    ("GET", "/fapi/v1/openOrder"): 1,
    ("DELETE", "/fapi/v1/order"): 1,
    ("DELETE", "/fapi/v1/allOpenOrders"): 1,
    ("GET", "/fapi/v1/openOrders"): by_symbols(1, 40),
    ("GET", "/fapi/v1/allOrders"): 5,
    ("GET", "/fapi/v1/userTrades"): 5,
    ("POST", "/fapi/v1/countdownCancelAll"): 10,
    ("POST", "/fapi/v1/algoOrder"): 0,
    ("GET", "/fapi/v1/openAlgoOrders"): by_symbols(1, 40),
    ("GET", "/fapi/v1/allAlgoOrders"): 5,
    ("GET", "/fapi/v1/income"): 30,
    ("GET", "/fapi/v1/positionSide/dual"): 30,
    ("GET", "/fapi/v1/symbolConfig"): 5,
    ("GET", "/fapi/v1/commissionRate"): 20,
    ("GET", "/fapi/v2/account"): 5,
    ("GET", "/fapi/v3/account"): 5,
    ("GET", "/fapi/v2/balance"): 5,
    ("GET", "/fapi/v3/balance"): 5,
    ("GET", "/fapi/v2/positionRisk"): 5,
    ("GET", "/fapi/v3/positionRisk"): 5,
}

LIMITS = Limits(weight_per_minute=2400, orders_per_10s=300, ws_messages_per_s=10, ws_streams=1024)
"""What an address and an account may do; orders are counted in 10 s only (Binance also counts 1200 in a minute)."""

"""Markets as ccxt's real binance class reads them from exchangeInfo, without a connection."""

import ccxt.pro

SPOT = {
    "status": "TRADING",
    "baseAssetPrecision": 8,
    "quotePrecision": 8,
    "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
}


def exchange_info(symbol="BTCUSDT", base="BTC", quote="USDT", tick="0.01", lot="0.00001"):
    return {
        **SPOT,
        "symbol": symbol,
        "baseAsset": base,
        "quoteAsset": quote,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000.00000", "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": "86.50000", "stepSize": "0.00000000"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "maxNotional": "9000000.00000000"},
        ],
    }


def binance():
    """Return ccxt's own class with one market, BTC/USDT."""
    exchange = ccxt.pro.binance({"options": {"crossMarginPairsData": [], "isolatedMarginPairsData": []}})
    exchange.set_markets([exchange.parse_market(exchange_info())])
    return exchange

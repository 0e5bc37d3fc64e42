"""Recorded frames of trades through the real readers, beside what ccxt's own classes make of them."""

import asyncio
import json

import ccxt.pro
import pytest

from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.market.frames import DIALECTS, trade_of
from recording import recorded
from serving import exchange_at, serving


def payloads(name):
    for line in recorded(f"captures/{name}").read_text().splitlines():
        _, _, payload = line.partition(": ")
        if payload.startswith("{"):
            yield payload


async def by_ccxt(exchange_id, texts):
    """What ccxt's own class keeps of frames, by its own name of the market."""
    exchange = getattr(ccxt.pro, exchange_id)({"options": {"tradesLimit": 100_000}})
    exchange.markets, exchange.markets_by_id = {}, {}
    try:
        client = exchange.client("wss://localhost/stream/spot")
        for text in texts:
            client.handle_text_or_binary_message(text)
        return [
            (
                each["info"].get("instId") or each["info"]["s"],
                *(each[key] for key in ("id", "timestamp", "price", "amount", "side")),
            )
            for trades in exchange.trades.values()
            for each in trades
        ]
    finally:
        await exchange.close()


@pytest.mark.parametrize(
    ("exchange_id", "name", "mark"),
    [("binance", "binance_futures.ws.txt", '"aggTrade"'), ("okx", "okx.ws.txt", '"channel":"trades"')],
)
def test_each_recorded_trade_is_read_as_ccxt_reads_it(exchange_id, name, mark):
    texts = [text for text in payloads(name) if mark in text and '"event"' not in text]
    read = [
        (market_id, *trade[:5])
        for text in texts
        for market_id, trades in DIALECTS[exchange_id].trades(text).items()
        for trade in trades
    ]
    assert len(read) > 30
    assert sorted(read) == sorted(asyncio.run(by_ccxt(exchange_id, texts)))
    assert {trade[-1] for trade in read} == {"buy", "sell"}
    # No other frame is taken for trades.
    others = [text for text in payloads(name) if mark not in text or '"event"' in text]
    assert not any(DIALECTS[exchange_id].trades(text) for text in others)


@pytest.mark.parametrize("exchange_id", DIALECTS)
def test_samples_of_ccxt_are_read(exchange_id):
    path = recorded("ccxt_samples/ws").joinpath(f"{exchange_id}.json")
    if not path.exists():
        pytest.skip(f"ccxt keeps no sample of {exchange_id}")
    samples = json.loads(path.read_text())
    messages = [
        each["json"]
        for method in ("handle_trades", "handle_trade")
        for each in samples.get(method, ())
        if "json" in each
    ]
    if exchange_id == "cryptocom":
        messages = [{"result": {"channel": "trade", "data": messages}, "method": "subscribe"}]
    if not messages:
        pytest.skip(f"ccxt keeps no sample of trades of {exchange_id}")
    for message in messages:
        (trades,) = DIALECTS[exchange_id].trades(json.dumps(message, separators=(",", ":"))).values()
        assert all(trade.price > 0 and trade.amount > 0 and trade.side in {"buy", "sell"} for trade in trades)
        assert all(trade.ts_ms > 1_500_000_000_000 for trade in trades)


@pytest.mark.parametrize(("kind", "number"), [("spot", 1), ("swap", 2)])
def test_a_trade_of_kucoin_bears_the_same_number_in_rest_and_in_a_frame(kind, number):
    sample = json.loads(recorded("ccxt_samples/rest/kucoin.json").read_text())["fetch_trades"][number]["json"]

    async def fetch():
        async with serving(lambda asked: json.dumps(sample)) as address:
            exchange = exchange_at("kucoin", address, kind)
            try:
                return await exchange.fetch_trades(next(iter(exchange.markets)))
            finally:
                await exchange.close()

    (row,) = sample["data"]
    (told,) = asyncio.run(fetch())
    trade = trade_of(told, facts_of("kucoin"))
    topic = "/market/match:" if kind == "spot" else "/contractMarket/execution:"
    frame = {"topic": f"{topic}BTCUSDT", "data": {"symbol": "BTCUSDT", "tradeId": "another", **row}}
    assert DIALECTS["kucoin"].trades(json.dumps(frame, separators=(",", ":"))) == {"BTCUSDT": [trade]}
    assert trade.id == str(row["sequence"])

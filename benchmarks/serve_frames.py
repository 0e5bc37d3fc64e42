"""A loopback server of Binance's klines and trades, for benchmarks of clients; ends with its standard input.

    python benchmarks/serve_frames.py SYMBOLS

Prints its port. A connection to /KIND/PACE/COUNT/... gets, after its first message, COUNT frames of KIND (kline, trade,
aggTrade) in turns over the symbols C0USDT, C1USDT, ...; then it is closed. PACE is how many a second; or 'each': one a
write, as fast as the server can; or 'all': all of them at once, as fast as the client reads. One that names its streams
in the address sends no message and gets combined frames, as on Binance.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

START_MS = 1_704_067_200_000


def kline(number: int, symbols: int) -> str:
    symbol = f"C{number % symbols}USDT"
    at_ms = START_MS + number // (symbols * 60) * 60_000
    close = 100 + number % 97 / 100
    return (
        f'{{"e":"kline","E":{at_ms + 2_000},"s":"{symbol}","k":{{"t":{at_ms},"T":{at_ms + 59_999},"s":"{symbol}",'
        f'"i":"1m","f":158411535,"L":158411550,"o":"100.01000000","c":"{close:.8f}","h":"101.17000000",'
        f'"l":"99.93000000","v":"{number % 1000}.08400000","n":16,"x":false,"q":"509.72805600",'
        f'"V":"3.30200000","Q":"330.63185000","B":"0"}}}}'
    )


def trade(number: int, symbols: int) -> str:
    at_ms = START_MS + number
    return (
        f'{{"e":"trade","E":{at_ms + 2},"s":"C{number % symbols}USDT","t":{158_411_535 + number},'
        f'"p":"{100 + number % 97 / 100:.8f}","q":"{number % 1000}.08400000","T":{at_ms},'
        f'"m":{"true" if number % 2 else "false"},"M":true}}'
    )


def agg_trade(number: int, symbols: int) -> str:
    return trade(number, symbols).replace('"trade"', '"aggTrade"').replace('"t":', '"a":')


KINDS = {"kline": kline, "trade": trade, "aggTrade": agg_trade}


def packed(text: str) -> bytes:
    """Return a text as one whole frame, as servers send it: not masked."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    return bytes((0x81, 126)) + len(payload).to_bytes(2, "big") + payload


async def serve(request: web.Request) -> web.WebSocketResponse:
    kind, pace, count_text = request.path.split("/")[1:4]
    frames = [KINDS[kind](number, request.app["symbols"]) for number in range(int(count_text))]
    ws = web.WebSocketResponse(compress=False, autoping=True)
    await ws.prepare(request)
    if "streams" in request.query:
        frames = [
            f'{{"stream":"c{i % request.app["symbols"]}usdt@{kind}","data":{text}}}' for i, text in enumerate(frames)
        ]
    else:
        asked = await ws.receive_json()
        await ws.send_json({"result": None, "id": asked["id"]})
    reader = asyncio.ensure_future(ws.receive())
    # Time for a client to be done with connecting, before its cost is counted.
    await asyncio.sleep(1.5)
    loop = asyncio.get_running_loop()
    if pace == "each":
        for text in frames:
            await ws.send_str(text)
    elif pace != "all":
        began_s = loop.time()
        for number, text in enumerate(frames):
            await asyncio.sleep(max(0.0, began_s + number / int(pace) - loop.time()))
            await ws.send_str(text)
    else:
        assert request.transport is not None
        request.transport.write(b"".join(map(packed, frames)))
        while request.transport.get_write_buffer_size():  # noqa: ASYNC110  # a transport has no event for it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    reader.cancel()
    await ws.close()
    return ws


async def main(symbols: int) -> None:
    app = web.Application()
    app["symbols"] = symbols
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


asyncio.run(main(int(sys.argv[1])))

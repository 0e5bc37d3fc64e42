"""Run the simulated exchange in a process of its own: ``python -m ccxtbt.sim``.

Prints one line of JSON once it listens: url, api_key, secret, start_ms, began_s, speed and pid. It ends on SIGINT and
SIGTERM, and with ``--with-stdin`` also when its standard input closes, so that it never outlives who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from ccxtbt.sim.server import API_KEY, SECRET, START_MS, SimServer
from ccxtbt.sim.spec import Spec

DAY_MS = 86_400_000


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m ccxtbt.sim", description="A simulated Binance spot on loopback.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--config", type=Path, help="JSON: any of these options, and specs as a list of objects")
    parser.add_argument(
        "--symbols", default="BTC/USDT:60000,ETH/USDT:3000,BNB/USDT:500", help="BASE/QUOTE:price, separated by commas"
    )
    parser.add_argument("--balances", default="USDT:100000", help="COIN:amount, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1.0, help="virtual milliseconds per real one")
    parser.add_argument("--start-ms", type=int, default=START_MS, help="where live begins, ms UTC")
    parser.add_argument("--began-s", type=float, help="when the clock stood at --start-ms, Unix time; now if not given")
    parser.add_argument("--history-days", type=float, default=7.0)
    parser.add_argument("--quiet-bars", choices=("skip", "flat"), default="skip", help="what a bar without trades is")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="one way, on the simulator's clock")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--secret", default=SECRET)
    parser.add_argument("--control", action="store_true", help="take orders below /control/: see ccxtbt.sim.control")
    parser.add_argument("--with-stdin", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    options.specs = None
    if options.config is not None:
        config = orjson.loads(options.config.read_bytes())
        unknown = set(config) - set(vars(options))
        if unknown:
            parser.error(f"{options.config}: {sorted(unknown)} are no options; use {sorted(vars(options))}")
        parser.set_defaults(**config)
        specs = config.get("specs")
        options = parser.parse_args(arguments)
        options.specs = specs
    return options


def build(options: argparse.Namespace) -> SimServer:
    """Make the server that the options describe."""
    if options.specs is not None:
        specs = [Spec(**_decimals(spec)) for spec in options.specs]
    else:
        specs = [_spec(text) for text in options.symbols.split(",") if text]
    balances = dict(text.split(":") for text in options.balances.split(",") if text)
    return SimServer.of(
        specs,
        seed=options.seed,
        speed=options.speed,
        start_ms=options.start_ms,
        began_s=options.began_s,
        history_ms=int(options.history_days * DAY_MS),
        quiet_bars=options.quiet_bars,
        balances=balances,
        api_key=options.api_key,
        secret=options.secret,
        host=options.host,
        port=options.port,
        latency_ms=options.latency_ms,
        control=options.control,
    )


def _spec(text: str) -> Spec:
    names, _, price = text.partition(":")
    base, _, quote = names.partition("/")
    if not (base and quote and price):
        raise SystemExit(f"{text!r} is no symbol: write BASE/QUOTE:price, as BTC/USDT:60000")
    return Spec(symbol=base + quote, base=base, quote=quote, price=Decimal(price))


def _decimals(spec: dict[str, Any]) -> dict[str, Any]:
    """Read the amounts of a spec, which JSON holds as text, as decimals."""
    texts = {"symbol", "base", "quote"}
    return {
        name: Decimal(value) if isinstance(value, str) and name not in texts else value for name, value in spec.items()
    }


def _stop_at_end(loop: asyncio.AbstractEventLoop, server: SimServer) -> None:
    sys.stdin.read()
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(server.request_stop)


async def run(options: argparse.Namespace) -> None:
    """Serve until a signal, or the end of standard input, says stop."""
    if options.began_s is None:
        options.began_s = time.time()
    server = build(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, server.request_stop)
        except NotImplementedError:  # Windows, where Ctrl-C raises KeyboardInterrupt instead
            break
    if options.with_stdin:
        # A daemon: a read that never ends must not keep the process from ending by a signal.
        threading.Thread(target=_stop_at_end, args=(loop, server), daemon=True).start()

    def announce() -> None:
        line = {
            "url": server.url,
            "api_key": options.api_key,
            "secret": options.secret,
            "start_ms": options.start_ms,
            "began_s": options.began_s,
            "speed": options.speed,
            "pid": os.getpid(),
        }
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()

    await server.serve(announce)


if __name__ == "__main__":
    try:
        asyncio.run(run(parse()))
    except KeyboardInterrupt:
        sys.exit(130)

"""Throws damaged answers at the decoder, by the million: `python tests/fuzz_ohlcv.py --inputs 10000000`.

Every answer must be read or refused with `DataError`; one in `--compare` is given to the plain reference too, and both
must agree. To look for reads beyond a body, build with AddressSanitizer and bounds checks, and let every object have
memory of its own:

    CCXTBT_SANITIZE=1 python setup.py build --build-lib build/sanitize
    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \\
        PYTHONPATH=build/sanitize python tests/fuzz_ohlcv.py --inputs 10000000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ccxtbt._ohlcv import Layout, decode, decode_and_splice, rows_to_columns
from ccxtbt.errors import DataError
from reference import answers
from reference import ohlcv as plain

KEYS = ("t", "o", "h", "l", "c", "v")
ISO_KEYS = ("openTime", "open", "high", "low", "close", "baseVolume")
TOKENS = [
    b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b".", b"-", b"+", b"e", b"E", b"0", b"9", b" ", b"\n", b"\0",
    b"\xff", b"null", b"true", b"NaN", b"1e999", b"-0", b'""', b'"\\u12', b"0.1", b"1700000000000", b"[[[[[[[[",
    b"]]]]]]]]", b"1234567890123456789012345678901234567890", b"0000000000000000", b'"0.00000000000000000000000001"',
    b"9007199254740993", b'"\\"]"', b"123456789012345", b"1234567890123456", b"99999999999999.9", b'"2024-02-29T',
]  # fmt: skip


def corpus() -> list[tuple[bytes, dict[str, Any]]]:
    """Good answers in many manners, small and of several rows, each with the arguments of its layout."""
    lists: dict[str, Any] = {"fields": tuple(range(6))}
    found: list[tuple[bytes, dict[str, Any]]] = []
    for count in (1, 2, 3, 5):
        bars = answers.candles(count, seed=count)
        found += [
            (answers.binance(bars).encode(), lists),
            (answers.okx(bars).encode(), {**lists, "path": ("data",)}),
            (answers.bybit(bars).encode(), {**lists, "path": ("result", "list")}),
            (
                answers.kraken(bars).encode(),
                {"fields": (0, 1, 2, 3, 4, 6), "path": ("result", "XXBTZUSD"), "time": "s"},
            ),
            (
                answers.deribit(bars).encode(),
                {
                    "fields": ("ticks", "open", "high", "low", "close", "volume"),
                    "rows": "columns",
                    "path": ("result",),
                },
            ),
        ]
        rows = json.loads(answers.binance(bars))
        dicts = [{"x": [1, {"y": "z"}], **dict(zip(KEYS, row, strict=False)), "n": None} for row in rows]
        found.append(
            (
                json.dumps({"data": [0, dicts]}, indent=1).encode(),
                {"fields": KEYS, "rows": "dicts", "path": ("data", 1)},
            )
        )
        texts = [
            dict(zip(ISO_KEYS, (f"2024-02-29T23:{i:02d}:59.123Z", *map(float, row[1:6])), strict=True))
            for i, row in enumerate(rows)
        ]
        found.append((json.dumps(texts).encode(), {"fields": ISO_KEYS, "rows": "dicts", "time": "iso"}))
        scaled = [[row[0] * 1_000_000, *(int(float(value) * 10**8) for value in row[1:6])] for row in rows]
        found.append((json.dumps(scaled).encode(), {**lists, "time": "ns", "scales": (8, 8, 8, 8, 4)}))
    return found


def damaged(draw: random.Random, body: bytes) -> bytes:
    """The body with up to three faults."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = int(draw.random() * (len(body) + 1))
        kind = draw.random()
        if kind < 0.3:
            body = body[:at] + draw.choice(TOKENS) + body[at:]
        elif kind < 0.55:
            body = body[:at] + draw.choice(TOKENS) + body[at + 1 + int(draw.random() * 4) :]
        elif kind < 0.7:
            body = body[:at] + body[at + 1 + int(draw.random() * 20) :]
        elif kind < 0.85:
            body = body[:at]
        elif kind < 0.95:
            body = body[:at] + bytes([int(draw.random() * 256)]) + body[at + 1 :]
        else:
            stop = at + int(draw.random() * 80)
            body = body[:stop] + body[at:]
    return body


def check_reference(body: bytes, arguments: dict[str, Any], found: Any) -> None:
    """Compare with the plain reading, of answers that both read by the same rules."""
    if b"\\" in body or not body.isascii() or len(body) > 100_000:
        return  # escaped keys and damaged UTF-8 are refused by one side only
    try:
        wanted: Any = plain.decode(body.decode(), **arguments)
    except (ValueError, RecursionError, OverflowError):
        wanted = None
    if found is not None:
        found = (found[0].tolist(), found[1].tolist())
    if found != wanted:
        raise AssertionError(f"{body!r} with {arguments}: {found} but {wanted} is wanted")


def check_rows(draw: random.Random, body: bytes) -> None:
    """Give what is left of an answer to `rows_to_columns`, as ccxt would give it a list."""
    try:
        rows = json.loads(body)
    except ValueError:
        return
    if isinstance(rows, list):
        try:
            rows_to_columns(rows)
        except DataError:
            return


def fuzz(inputs: int, seed: int, compare: int = 50) -> dict[str, int]:
    """Read so many damaged answers; return how many were read, refused and compared."""
    draw = random.Random(seed)
    cases = [(body, arguments, Layout(**arguments)) for body, arguments in corpus()]
    counts = {"read": 0, "refused": 0, "compared": 0}
    for number in range(inputs):
        good, arguments, layout = cases[int(draw.random() * len(cases))]
        body = damaged(draw, good)
        # Now and then one long enough to be read without the interpreter lock.
        if number % 20_000 == 0 and layout.rows == "lists" and not layout.path:
            body = good[:-1] + b"," + b",".join([good[1:-1]] * 300) + body[-40:]
        text: bytes | str = body
        if number & 1 and body.isascii():
            text = body.decode()
        try:
            found: Any = decode(text, layout) if number % 3 else decode_and_splice(text, layout)
            counts["read"] += 1
        except DataError:
            found = None
            counts["refused"] += 1
        if number % compare == 0:
            check_reference(body, arguments, found)
            check_rows(draw, body)
            counts["compared"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz ccxtbt's decoder.")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--compare", type=int, default=50, metavar="N", help="compare one in N with the reference")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    start_s = time.monotonic()
    counts = fuzz(given.inputs, given.seed, given.compare)
    print(f"{given.inputs} answers in {time.monotonic() - start_s:.0f} s: {counts}")


if __name__ == "__main__":
    main()

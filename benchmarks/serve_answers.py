"""A loopback server of exchanges' answers, for benchmarks of clients: prints its port, ends with its standard input.

    python benchmarks/serve_answers.py FOLDER

FOLDER holds one body an exchange, named like a part of its host. Requests under /gzip/ get it compressed (once, at the
start, at zlib's default level).
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path

from aiohttp import web


async def main(bodies: dict[str, bytes]) -> None:
    packed = {name: gzip.compress(body, 6) for name, body in bodies.items()}

    async def answer(request: web.Request) -> web.Response:
        name = next(name for name in bodies if name in request.path)
        headers = {"Content-Type": "application/json"}
        if request.path.startswith("/gzip/"):
            return web.Response(body=packed[name], headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=bodies[name], headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


asyncio.run(main({file.stem: file.read_bytes() for file in Path(sys.argv[1]).iterdir()}))

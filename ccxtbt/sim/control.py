"""Orders to a simulator that runs in another process, over the port on which it serves: break, stall, count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
from aiohttp import WSCloseCode, web

from ccxtbt.sim.connection import Connection, Socket
from ccxtbt.sim.gateway import Gateway

PREFIX = "/control/"


class Control:
    """Answers requests below ``/control/``; their arguments come as a JSON object, and so does the answer.

    ============= ====================================================================================
    path          what it does
    ============= ====================================================================================
    status        tells the time, handshakes so far, connections that are not half open, requests by status
    close         closes connections with ``code``; ``socket`` may say 'market' or 'user', here and below
    abort         cuts connections (TCP reset)
    stall         leaves connections half open
    fault         puts a rule in force: ``name`` is a method of `Faults`, the rest its arguments
    clear         takes all rules out of force
    ============= ====================================================================================

    Parameters
    ----------
    gateway : Gateway
        What is controlled, on its own event loop.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._orders: dict[str, Callable[..., dict[str, Any]]] = {
            "status": self._status,
            "close": self._close,
            "abort": self._abort,
            "stall": self._stall,
            "fault": self._fault,
            "clear": self._clear,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Carry out an order, or leave the request to the exchange."""
        if not request.path.startswith(PREFIX):
            return await self._gateway.handle(request)
        name = request.path.removeprefix(PREFIX)
        order = self._orders.get(name)
        if order is None:
            return _answer({"error": f"{name!r} is no order; there are {', '.join(self._orders)}"}, 404)
        body = await request.read()
        try:
            return _answer(order(**(orjson.loads(body) if body else {})))
        except (TypeError, ValueError, AttributeError) as error:
            return _answer({"error": f"{name}: {error}"}, 400)

    def _status(self) -> dict[str, Any]:
        gateway = self._gateway
        statuses: dict[str, int] = {}
        for record in gateway.requests:
            statuses[str(record.status)] = statuses.get(str(record.status), 0) + 1
        streams = [len(each.streams) for each in gateway.connections.values() if not each.stalled]
        return {
            "now_ms": gateway.clock.now_ms(),
            "connects": gateway.connects,
            "connections": len(streams),
            "streams": sum(streams),
            "requests": statuses,
        }

    def _close(self, code: int = WSCloseCode.GOING_AWAY, socket: Socket | None = None) -> dict[str, Any]:
        return {"count": self._gateway.each(socket, lambda connection: connection.close(code))}

    def _abort(self, socket: Socket | None = None) -> dict[str, Any]:
        return {"count": self._gateway.each(socket, Connection.abort)}

    def _stall(self, socket: Socket | None = None) -> dict[str, Any]:
        return {"count": self._gateway.each(socket, Connection.stall)}

    def _fault(self, name: str, **arguments: Any) -> dict[str, Any]:
        if name.startswith("_"):
            raise ValueError(f"{name!r} is no fault")
        add = cast("Callable[..., object]", getattr(self._gateway.faults, name))
        add(**arguments)
        return {}

    def _clear(self) -> dict[str, Any]:
        self._gateway.faults.clear()
        return {}


def _answer(content: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")

"""What ccxt says in logs and errors, without what a key or a signature could be read from."""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping
from typing import Any

import ccxt

# ccxt's errors and log lines quote an address, and the query of a private one carries its signature.
_QUERY = re.compile(r"((?:https?|wss?)://[^\s?]+|url: /[^\s?]*)\?[^\s,)]*")
HIDDEN = "***"


def without_query(error: ccxt.BaseError) -> ccxt.BaseError:
    """Return the same error: its text, and that of the errors that led to it, tell addresses without their query."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        text = str(each)
        if (clean := _QUERY.sub(r"\1", text)) != text:
            each.args = (clean,)
        each = each.__cause__ or each.__context__
    return error


class DiscreetLog(logging.LoggerAdapter[logging.Logger]):
    """The log of a ccxt exchange, which at DEBUG level has every request, with all its headers.

    Here a line has the method, the address without its query, and the answer; headers and bodies of requests, which
    carry keys and signatures, are left out, and any credential that stands elsewhere is hidden.

    Parameters
    ----------
    logger : Logger
        Where the lines go.
    exchange : ccxt exchange
        Whose credentials are hidden, as they are when a line is written.
    """

    def __init__(self, logger: logging.Logger, exchange: Any) -> None:
        super().__init__(logger, {})
        self._exchange = exchange

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line."""
        if self.isEnabledFor(level):
            super().log(level, "%s", self._discreet(str(msg), args), **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave a line as it is: there is nothing to add."""
        return msg, kwargs

    def _discreet(self, msg: str, args: tuple[object, ...]) -> str:
        if "Request:" in msg and len(args) >= 2:
            msg, args = "%s %s", args[:2]
        text = _QUERY.sub(r"\1", msg % args if args else msg)
        exchange = self._exchange
        for name in exchange.requiredCredentials:
            credential = getattr(exchange, name, None)
            if credential:
                text = text.replace(str(credential), HIDDEN)
        return text

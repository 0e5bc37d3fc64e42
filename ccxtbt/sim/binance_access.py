"""Who may ask what: Binance's refusals, the reading of parameters, and the check of key, signature and timestamp."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qsl

_DECIMAL = re.compile(r"^([0-9]{1,20})(\.[0-9]{1,20})?$")
_INTEGER = re.compile(r"^[0-9]{1,20}$")
_CLIENT_ID = re.compile(r"^[.A-Z:/a-z0-9_-]{1,36}$")
_SYMBOL = re.compile(r"^[A-Z0-9-_.]{1,20}$")
DAY_MS = 86_400_000
MAX_RECV_WINDOW_MS = 60_000
DEFAULT_RECV_WINDOW_MS = 5_000
MAX_AHEAD_MS = 1_000


class Refusal(Exception):  # noqa: N818 - named by what the exchange does: it is an answer, not a failure of the server
    """The exchange refuses a request: HTTP status, Binance's code and message, further headers and data."""

    def __init__(
        self,
        status: int,
        code: int,
        msg: str,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, code, msg)
        self.status = status
        self.code = code
        self.msg = msg
        self.headers = dict(headers or {})
        self.data = data

    def body(self) -> dict[str, Any]:
        """Return the refusal as Binance writes it."""
        error: dict[str, Any] = {"code": self.code, "msg": self.msg}
        if self.data is not None:
            error["data"] = dict(self.data)
        return error


def mandatory(name: str) -> Refusal:
    """-1102 for a parameter that is missing or malformed."""
    return Refusal(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def illegal(name: str, legal: str) -> Refusal:
    """-1100 for a parameter with characters that it may not have."""
    return Refusal(400, -1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


class Params(dict[str, str]):
    """A request's parameters as text, with readers that refuse as Binance refuses."""

    def required(self, name: str) -> str:
        """Read the text of a mandatory parameter."""
        value = self.get(name)
        if not value:
            raise mandatory(name)
        return value

    def symbol(self) -> str:
        """Read ``symbol``, well formed; whether it is listed is for the caller to see."""
        value = self.required("symbol")
        if not _SYMBOL.match(value):
            raise illegal("symbol", _SYMBOL.pattern)
        return value

    def integer(self, name: str, default: int | None = None, *, most: int | None = None) -> int | None:
        """Read an integer, cut to ``most``; ``default`` where it was not sent."""
        value = self.get(name)
        if value is None or value == "":
            return default
        if not _INTEGER.match(value):
            raise illegal(name, _INTEGER.pattern)
        number = int(value)
        return number if most is None else min(number, most)

    def limit(self, default: int, most: int) -> int:
        """Read the ``limit`` of a list: at least 1, cut to ``most``."""
        value = self.integer("limit", default, most=most)
        if not value:
            raise Refusal(400, -1130, "Data sent for parameter 'limit' is not valid.")
        return value

    def decimal(self, name: str) -> Decimal | None:
        """Read a positive decimal number, None where it was not sent."""
        value = self.get(name)
        if value is None or value == "":
            return None
        if not _DECIMAL.match(value):
            raise illegal(name, _DECIMAL.pattern)
        try:
            return Decimal(value)
        except InvalidOperation as error:  # pragma: no cover - the pattern admits nothing that Decimal does not read
            raise illegal(name, _DECIMAL.pattern) from error

    def client_id(self, name: str) -> str | None:
        """Read an id of the client's choice, None where it was not sent."""
        value = self.get(name)
        if not value:
            return None
        if not _CLIENT_ID.match(value):
            raise illegal(name, _CLIENT_ID.pattern)
        return value

    def day(self) -> tuple[int | None, int | None]:
        """Read ``startTime`` and ``endTime``, which may not span more than a day."""
        start_ms, end_ms = self.integer("startTime"), self.integer("endTime")
        if start_ms is not None and end_ms is not None and end_ms - start_ms > DAY_MS:
            raise Refusal(400, -1127, "More than 24 hours between startTime and endTime.")
        return start_ms, end_ms

    def one_of(self, name: str, legal: Iterable[str], code: int, msg: str) -> str:
        """Read a mandatory parameter out of a set of words; ``code`` and ``msg`` refuse any other."""
        value = self.required(name)
        if value not in legal:
            raise Refusal(400, code, msg)
        return value


def read_params(query: str, body: str) -> Params:
    """Read the parameters of query string and form body; a parameter sent twice is refused (-1101)."""
    params = Params()
    for text in (query, body):
        for name, value in parse_qsl(text, keep_blank_values=True):
            if name in params:
                raise Refusal(400, -1101, "Duplicate values for a parameter detected.")
            params[name] = value
    return params


def signed_text(query: str, body: str) -> str:
    """Return what a REST request's signature covers: query string and body as sent, without the signature itself."""
    return "".join(
        "&".join(part for part in text.split("&") if not part.startswith("signature=")) for text in (query, body)
    )


def signed_params(params: Mapping[str, str]) -> str:
    """Return what a ws-api request's signature covers: its parameters in alphabetical order, without the signature."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")


def sign(secret: str, text: str) -> str:
    """Sign with HMAC-SHA256, in lower-case hexadecimal as Binance wants it."""
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def check_key(api_key: str | None, secret_of: Callable[[str], str | None]) -> str:
    """Return the secret of an API key, or refuse with -2014 (no or malformed key) or -2015 (unknown key)."""
    if not api_key or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", api_key):
        raise Refusal(401, -2014, "API-key format invalid.")
    secret = secret_of(api_key)
    if secret is None:
        raise Refusal(401, -2015, "Invalid API-key, IP, or permissions for action.")
    return secret


def check_signature(params: Params, text: str, secret: str, now_ms: int) -> None:
    """Check timestamp, recvWindow and signature of a signed request.

    Raises
    ------
    Refusal
        -1102 (timestamp or signature missing), -1131 (recvWindow), -1021 (too old, or more than a second ahead of the
        exchange's clock), -1022 (wrong signature).
    """
    timestamp = params.integer("timestamp")
    if timestamp is None:
        raise mandatory("timestamp")
    recv_window = params.integer("recvWindow", DEFAULT_RECV_WINDOW_MS)
    if recv_window is None or recv_window > MAX_RECV_WINDOW_MS:
        raise Refusal(400, -1131, f"'recvWindow' must be less than {MAX_RECV_WINDOW_MS}.")
    signature = params.required("signature")
    if not hmac.compare_digest(signature.lower(), sign(secret, text)):
        raise Refusal(400, -1022, "Signature for this request is not valid.")
    if timestamp >= now_ms + MAX_AHEAD_MS:
        raise Refusal(400, -1021, f"Timestamp for this request was {MAX_AHEAD_MS}ms ahead of the server's time.")
    if now_ms - timestamp > recv_window:
        raise Refusal(400, -1021, "Timestamp for this request is outside of the recvWindow.")

"""Keys of an account from the environment or a file, so that no script has to hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.adapter import required_credentials

# ccxt's name of a credential -> the ends of the variables that hold it, the usual one first.
ENDS: Mapping[str, tuple[str, ...]] = {
    "apiKey": ("API_KEY", "APIKEY"),
    "secret": ("SECRET", "API_SECRET", "SECRET_KEY"),
    "password": ("PASSWORD", "PASSPHRASE", "API_PASSWORD"),
    "uid": ("UID",),
    "login": ("LOGIN",),
    "accountId": ("ACCOUNT_ID",),
    "walletAddress": ("WALLET_ADDRESS",),
    "privateKey": ("PRIVATE_KEY",),
    "twofa": ("TWOFA",),
    "token": ("TOKEN",),
}
# ccxt's name of an exchange -> another one whose keys are the same.
SAME_KEYS: Mapping[str, str] = {
    "binanceusdm": "binance",
    "binancecoinm": "binance",
    "kucoinfutures": "kucoin",
    "gateio": "gate",
    "huobi": "htx",
    "htx": "huobi",
}
ENV_FILE = ".env"


def load_ccxt_config_from_env(
    exchange: str,
    env_path: str | os.PathLike[str] | None = None,
    enable_rate_limit: bool = True,
    sandbox: bool = False,
) -> dict[str, Any]:
    """Return a `config` for `CCXTStore` with an account's keys from the environment, or from a file of its form.

    For ``'okx'`` these are ``OKX_API_KEY``, ``OKX_SECRET`` and ``OKX_PASSWORD``: the exchange's name in capitals, and
    `ENDS` of what ccxt requires there.

    Parameters
    ----------
    exchange : str
        ccxt's name, such as ``'binance'``.
    env_path : str or path, optional
        File of lines ``NAME=value``; None: ``.env`` in the working directory, if there is one. What the environment
        says wins. Nothing of the file is put into the environment, where other processes would inherit it.
    enable_rate_limit : bool
        ccxt's ``enableRateLimit``.
    sandbox : bool
        Use the exchange's test network.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange; `env_path` cannot be read; a key that the exchange requires is in neither. The
        sentence names the variable, never a value.
    """
    said = {**_file(env_path), **os.environ}
    required = required_credentials(exchange)
    found = {name: value for name in ENDS if (value := _first(said, exchange, name))}
    missing = [f"{exchange.upper()}_{ENDS[name][0]}" for name in required if name not in found]
    if missing:
        where = env_path or ENV_FILE
        raise ConfigError(
            f"{' and '.join(missing)} are not set: put them into the environment, or into {str(where)!r} as lines "
            "NAME=value."
        )
    config: dict[str, Any] = {"enableRateLimit": enable_rate_limit, **found}
    if sandbox:
        config["sandbox"] = True
    return config


def _first(said: Mapping[str, str], exchange: str, credential: str) -> str | None:
    names = [name for name in (exchange, SAME_KEYS.get(exchange)) if name is not None]
    variables = (f"{name.upper()}_{end}" for name in names for end in ENDS[credential])
    return next((value for variable in variables if (value := said.get(variable, "").strip())), None)


def _file(env_path: str | os.PathLike[str] | None) -> dict[str, str]:
    path = Path(ENV_FILE if env_path is None else env_path).expanduser()
    if env_path is None and not path.is_file():
        return {}
    try:
        return dict(_lines(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"env_path={str(path)!r} cannot be read ({type(error).__name__}): give a text file."
        ) from None


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.lstrip().startswith("#"):
            yield name.strip(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    for quote in "'\"":
        if value.startswith(quote) and (end := value.find(quote, 1)) > 0:
            return value[1:end]
    return value.partition(" #")[0].rstrip()

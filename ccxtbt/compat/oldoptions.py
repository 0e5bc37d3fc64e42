"""Options that only scripts of other packages give: accepted, told of once, and put into our own words.

Each is told by a DeprecationWarning at the line of the script that gives it, so that Python shows it to who runs the
script and hides it where somebody else's library does.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ccxtbt.errors import ConfigError


class Old(NamedTuple):
    """An option of other packages.

    Attributes
    ----------
    advice : str
        What it does here, and what to say instead.
    becomes : callable or None
        Gives our options for its value; None: it changes nothing.
    stays : bool
        It is a parameter here too, so that scripts can read it, and changes nothing all the same.
    usual : Any
        The value that asks for what is done anyway, of which nothing is told; None: there is none.
    """

    advice: str
    becomes: Callable[[Any], Mapping[str, Any]] | None = None
    stays: bool = False
    usual: Any = None


_WATCHED = "connections are watched and made anew by the exchange's own rules: take it out"
_RETRIES = "questions are asked again as often as CCXTStore(retries=) says: say it there"

FEED: Mapping[str, Old] = {
    "drop_newest": Old(
        "changes nothing, since no bar comes before it is closed: take it out, or say partial=True to see the forming "
        "one too",
        stays=True,
        usual=True,
    ),
    "ohlcv_limit": Old(
        "changes nothing, since pages are as long as the exchange allows and go on until all is there: take it out",
        stays=True,
    ),
    "hist_start_date": Old("is called fromdate: say that", lambda value: {} if value is None else {"fromdate": value}),
    "use_websocket": Old(
        "is not needed, since streams are used where the exchange has them: take it out, or say source='poll' to do "
        "without",
        lambda value: {} if value else {"source": "poll"},
    ),
    "use_threaded_data": Old(
        "changes nothing, since the network's work is always done on a thread of its own: take it out"
    ),
    "include_funding": Old("changes nothing, since that is what the class is for: take it out, or take a CCXTFeed"),
    "funding_history_days": Old(
        "changes nothing, since past rates are loaded for as long as the bars are: take it out"
    ),
    "ws_reconnect_delay": Old(_WATCHED),
    "ws_max_reconnect_delay": Old(_WATCHED),
    "ws_health_check_interval": Old(_WATCHED),
    "ws_startup_timeout": Old(_WATCHED),
    "max_fetch_retries": Old(_RETRIES),
    "fetch_retry_delay": Old(_RETRIES),
}
BROKER: Mapping[str, Old] = {
    "use_websocket_orders": Old("is called use_websocket: say that", lambda value: {"use_websocket": value}),
    "use_threaded_order_manager": Old(
        "changes nothing, since orders are always followed on a thread of its own: take it out, and say "
        "check_interval= for how often they are looked up"
    ),
    "max_retries": Old(
        "changes nothing, since an order whose answer was lost is looked up and never sent again blindly: take it out; "
        "how often questions are asked again is CCXTStore(retries=)"
    ),
    "retry_delay": Old(_RETRIES),
}
STORE: Mapping[str, Old] = {
    "use_rate_limiter": Old(
        "changes nothing, since all requests keep to the exchange's limits: take it out; CCXTStore.rate_limit_stats() "
        "tells the budget"
    ),
    "use_connection_manager": Old(_WATCHED),
}
CONFIG: Mapping[str, Old] = {
    "nonce": Old("is left out, since requests carry the exchange's own time: take it out"),
    "apikey": Old("is called apiKey by ccxt: say that", lambda value: {"apiKey": value}),
}

# What was told of already, in this process.
_told: set[str] = set()


def put(where: str, old: Mapping[str, Old], given: Mapping[str, Any], declared: Any = None) -> dict[str, Any]:
    """Return options with the old ones among them in our words, and tell of each old one once.

    Parameters
    ----------
    where : str
        Who takes them, for the warning.
    old : mapping
        One of the tables of this module.
    given : mapping
        What the script gives.
    declared : object or None
        Has attributes named as the options that a class of ours takes itself.

    Raises
    ------
    ConfigError
        An old option and our own for the same are given with different values.
    """
    options = dict(given)
    for name in [name for name in given if name in old]:
        option = old[name]
        if option.stays:
            if given[name] is not option.usual:
                _tell(where, name, option)
        elif not hasattr(declared, name):
            value = options.pop(name)
            _tell(where, name, option)
            for ours, means in (option.becomes(value) if option.becomes is not None else {}).items():
                if options.setdefault(ours, means) != means:
                    # Without the values: one may be a key.
                    raise ConfigError(f"{where} was given {name} and {ours}, which are one: give {ours} alone.")
    return options


def config_of(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ccxt's configuration without what old scripts put there to their harm."""
    return put("config", CONFIG, given or {})


def _tell(where: str, name: str, option: Old) -> None:
    if f"{where} {name}" not in _told:
        warnings.warn(f"{name} of {where} {option.advice}.", DeprecationWarning, stacklevel=_level_of_script())
        _told.add(f"{where} {name}")


def _level_of_script() -> int:
    """Return how far up the script's own line is, past ours and backtrader's."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in {"ccxtbt", "backtrader"}:
        level, frame = level + 1, frame.f_back
    return level

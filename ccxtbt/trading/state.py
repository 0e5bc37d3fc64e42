"""What strategies keep over restarts: a small mapping of JSON values in the journal's file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import orjson

from ccxtbt.errors import ConfigError
from ccxtbt.trading.journal import Kept

logger = logging.getLogger(__name__)


class State(MutableMapping[str, Any]):
    """Values by name that the next run finds again.

    What is set is handed to the journal's writer and returns at once: it is on disk within milliseconds, and before any
    order that is made after it is sent. Each assignment is kept whole or not at all; so is an `update` of several
    names. Values are copies: what was read and then changed is kept only when it is set again.

    It can be read and set in a run, by strategies from their ``__init__`` on; after the run it can be read. Without a
    journal (a backtest, ``journal=None``, a run without keys) it begins empty and ends with the run.

    Attributes
    ----------
    open : bool
        A run goes on, and changes are taken.

    Examples
    --------
    >>> state = State()
    >>> state.begin({}, None)
    >>> state["entries"] = {"BTC/USDT": 3}
    >>> state["entries"]["BTC/USDT"]
    3
    """

    def __init__(self) -> None:
        self.open = False
        self._known: dict[str, str] | None = None
        self._keep: Callable[[Kept], None] | None = None
        self._told = False

    def __repr__(self) -> str:
        return f"State({list(self._known or ())})"

    def begin(self, texts: Mapping[str, str], keep: Callable[[Kept], None] | None) -> None:
        """Hold what an earlier run has kept.

        Parameters
        ----------
        texts : mapping of str to str
            JSON text by name.
        keep : callable or None
            Has changes written; None: they are not.
        """
        self.open, self._known, self._keep = True, dict(texts), keep

    def end(self) -> None:
        """Take no more changes: the run that would keep them is over. What was kept can be read."""
        self.open, self._keep = False, None

    @property
    def _texts(self) -> dict[str, str]:
        if self._known is None:
            raise ConfigError(
                "store.state is known once a run has begun: read it in the strategy, from its __init__ on."
            )
        return self._known

    def __getitem__(self, name: str) -> Any:
        return orjson.loads(self._texts[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self._change({name: _text_of(name, value)})

    def __delitem__(self, name: str) -> None:
        if name not in self._texts:
            raise KeyError(name)
        self._change({name: None})

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._texts))

    def __len__(self) -> int:
        return len(self._texts)

    def update(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None:  # type: ignore[override]  # one signature for all of the base's
        """Set several names at once: all of them are kept, or none.

        Raises
        ------
        ConfigError
            A name or a value cannot be kept; nothing is set.
        """
        self._change({name: _text_of(name, value) for name, value in dict(other, **more).items()})

    def clear(self) -> None:
        """Take all out at once."""
        self._change(dict.fromkeys(self._texts))

    def _change(self, texts: Mapping[str, str | None]) -> None:
        if not self.open:
            raise ConfigError(
                f"store.state cannot take {', '.join(texts)}: no run is on that would keep it. Set it in the strategy, "
                "from its __init__ to its stop()."
            )
        if self._keep is None and not self._told:
            self._told = True
            logger.info("store.state is not kept after this run: it has no journal.")
        self._known = {name: text for name, text in {**self._texts, **texts}.items() if text is not None}
        if self._keep is not None and texts:
            self._keep(Kept(texts))


def _text_of(name: str, value: Any) -> str:
    """Return a value as JSON text that reads back as what it was."""
    if not isinstance(name, str):
        raise ConfigError(f"store.state[{name!r}]: a name is text: say store.state[{str(name)!r}].")
    try:
        text = orjson.dumps(value).decode()
    except (TypeError, ValueError) as error:
        why = str(error)
    else:
        if orjson.loads(text) == value:
            return text
        why = "it would come back as something else"
    raise ConfigError(
        f"store.state[{name!r}] cannot keep a {type(value).__name__} ({why}): JSON holds text, whole numbers of 64 "
        "bits, floats but NaN and infinity, True, False, None, and lists and dicts of them. Keep a datetime as its "
        "isoformat(), a Decimal as str(), a number of numpy as float(), a tuple or set as a list."
    )

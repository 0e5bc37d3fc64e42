"""The exceptions, named by what the caller does next."""

from __future__ import annotations


class CCXTBTError(Exception):
    """Base of everything that ccxtbt raises on purpose."""


class ConfigError(CCXTBTError, ValueError):
    """The call or the configuration is wrong: mend it; trying again changes nothing."""


class NotOfferedError(ConfigError, NotImplementedError):
    """The exchange, or this release of ccxtbt, does not offer what was asked for: ask for something else."""


class TryLaterError(CCXTBTError):
    """The exchange or the network cannot answer now: the same call may succeed later."""


class OrderRefusedError(CCXTBTError):
    """The exchange refused the order for good: it is not, and will not be, at the exchange."""


class FundsError(OrderRefusedError):
    """The exchange refused the order for lack of funds or margin."""


class TriggerPassedError(OrderRefusedError):
    """The exchange refused a stop whose trigger the price has passed already: send what it becomes, or nothing."""


class NeverArrivedError(OrderRefusedError):
    """An order was sent and its answer lost, and the exchange has no such order: order anew, if it is still wanted."""


class OutcomeUnknownError(CCXTBTError):
    """A request was sent and its answer was lost: look up what became of it, never send it again."""


class DataError(CCXTBTError, ValueError):
    """What the exchange sent cannot be read as what it should be: report it; the data was not used."""


class UnbuiltError(CCXTBTError, ImportError):
    """The compiled core is missing: install the package, or build it with ``pip install -e .``."""

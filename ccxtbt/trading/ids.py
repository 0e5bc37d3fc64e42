"""Client order ids: none is ever given twice, and each has the form that its exchange takes."""

from __future__ import annotations

import itertools
from uuid import UUID

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.facts import Facts

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

# A run draws this many random bits; with 2^50 runs of one account in question two of them never meet.
NONCE_BITS = 50
_NONCE_DIGITS = 10
# Ids that are numbers have so few bits that a run's own part and the counter share them.
_NUMBER_BITS, _COUNTER_BITS = 45, 24


def base36(number: int) -> str:
    """Return a number above or equal to 0 in the digits 0-9 and a-z."""
    written = ""
    while number:
        number, digit = divmod(number, 36)
        written = _DIGITS[digit] + written
    return written or "0"


class ClientIds:
    """The client ids of a run: the run's nonce, which no other run has, and a counter that goes on from run to run.

    Either alone would do: the nonce where a journal is lost or put back from a copy, the counter where two runs drew
    the same nonce.

    Parameters
    ----------
    facts : Facts
        Form, prefix and longest length that the exchange takes.
    nonce : int
        The run's random number, below ``2 ** NONCE_BITS``.
    first : int
        The first number to give.

    Raises
    ------
    ConfigError
        The facts name a form that is none.
    """

    def __init__(self, facts: Facts, nonce: int, first: int) -> None:
        if facts.client_id_form not in {"text", "uuid", "hex", "number"}:
            raise ConfigError(
                f"client_id_form={facts.client_id_form!r} is not known: say 'text', 'uuid', 'hex' or 'number'."
            )
        self._facts = facts
        self._nonce = nonce
        self._numbers = itertools.count(first)

    def next(self) -> tuple[int, str]:
        """Return the next number of the counter and its id.

        Raises
        ------
        ConfigError
            The exchange's ids are too short for it.
        """
        number = next(self._numbers)
        facts = self._facts
        match facts.client_id_form:
            case "uuid":
                # Version 8 of RFC 9562 leaves all other bits to us.
                bits = (self._nonce << 64 | number) & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
                made = str(UUID(int=bits))
            case "hex":
                made = f"{self._nonce << 64 | number:032x}"
            case "number":
                run = self._nonce % 2 ** (_NUMBER_BITS - _COUNTER_BITS)
                made = str(run << _COUNTER_BITS | number % 2**_COUNTER_BITS)
            case _:
                made = f"bt{base36(self._nonce):0>{_NONCE_DIGITS}}{base36(number)}"
        made = facts.client_id_prefix + made
        if len(made) > facts.client_id_length:
            raise ConfigError(
                f"The client id {made!r} is longer than the {facts.client_id_length} characters that the exchange "
                "takes: correct client_id_length or client_id_form in the store's facts."
            )
        return number, made

"""A simulated exchange in a process of its own, as a real one is: broken, stalled and restarted from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import ccxtbt
from ccxtbt.sim.spec import Spec

# What one order may take; a simulator with much to send answers late.
ANSWER_S = 20.0


class Apart:
    """Starts ``python -m ccxtbt.sim`` and controls it.

    Parameters
    ----------
    specs : iterable of Spec
        The markets.
    **options
        Options of the command line, with ``_`` for ``-``.

    Attributes
    ----------
    url : str
        Where it listens, the same after a restart.
    speed : float
        Virtual milliseconds per real one.
    """

    def __init__(self, specs: Iterable[Spec], **options: Any) -> None:
        self._options: dict[str, Any] = {"history_days": 0.0, **options}
        self._options["specs"] = [
            {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(spec).items()}
            for spec in specs
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.speed = float(options.get("speed", 1.0))
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, or start it again: same address, same markets, and time has gone on meanwhile."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "config.json")
            config.write_text(json.dumps(self._options))
            source = str(Path(ccxtbt.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ccxtbt.sim", "--control", "--with-stdin", "--config", str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": source},
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line, "the simulator did not start"
        told = json.loads(line)
        self.url = told["url"]
        self._options |= {"port": int(self.url.rpartition(":")[2]), "began_s": told["began_s"]}
        return self

    def kill(self) -> None:
        """End it at once, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def freeze(self) -> None:
        """Let nothing through any more, without a word: what a network that stalls looks like from here."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        os.kill(self.pid, signal.SIGCONT)

    def order(self, order: str, /, **arguments: Any) -> dict[str, Any]:
        """Carry out an order of `ccxtbt.sim.control`."""
        request = Request(f"{self.url}/control/{order}", json.dumps(arguments).encode())
        try:
            with urlopen(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            raise ValueError(error.read().decode()) from None

    @property
    def connects(self) -> int:
        """WebSocket handshakes since the last start."""
        return int(self.order("status")["connects"])

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

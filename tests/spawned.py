"""Scripts in processes of their own, led to a simulated exchange, and interrupted as a user does it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ccxtbt
from ccxtbt.sim.server import SimServer

# How often is looked whether the script has done what is wanted, where it says nothing.
LOOK_S = 0.1
# A clean end takes no longer.
END_S = 5.0


@dataclass
class Spoken:
    """What a script said and how it ended.

    Attributes
    ----------
    lines : list of str
        Its standard output.
    errors : str
        Its standard error.
    code : int or None
        How it ended: minus the number of the signal, if one ended it.
    end_s : float
        How long it took to end after the interrupt.
    """

    lines: list[str] = field(default_factory=list)
    errors: str = ""
    code: int | None = None
    end_s: float = 0.0


def interrupted(
    script: Path,
    *arguments: str,
    server: SimServer,
    cwd: Path,
    until: Callable[[list[str]], bool],
    limit_s: float,
) -> Spoken:
    """Run a script until `until` says, by its lines so far or by the exchange, that it did enough; press Ctrl-C."""
    source = str(Path(ccxtbt.__file__).parents[1])
    environment = {**os.environ, "CCXTBT_ENDPOINT": server.url, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}
    spoken, arriving = Spoken(), queue.SimpleQueue()
    with (cwd / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        reader = threading.Thread(target=lambda: [*map(arriving.put, process.stdout), arriving.put(None)], daemon=True)
        reader.start()
        try:
            deadline_s = time.monotonic() + limit_s
            while not until(spoken.lines):
                try:
                    line = arriving.get(timeout=LOOK_S)
                except queue.Empty:
                    if time.monotonic() > deadline_s:
                        raise
                    continue
                if line is None:
                    break
                spoken.lines.append(line.rstrip("\n"))
            process.send_signal(signal.SIGINT)
            asked_s = time.monotonic()
            spoken.code = process.wait(END_S)
            spoken.end_s = time.monotonic() - asked_s
        except (queue.Empty, subprocess.TimeoutExpired):
            spoken.lines.append(f"(nothing wanted came, or it did not end: {script.name})")
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
        errors.seek(0)
        spoken.errors = errors.read()
    return spoken

"""Where recorded data lies: beside the checkout, or where CCXTBT_RECORDED says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def recorded(name: str) -> Path:
    """Return the path of a recording, as ``captures/xrp_eth_1m.csv.gz``; skip the test where it is missing."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("CCXTBT_RECORDED", beside)) / name
    if not path.exists():
        pytest.skip(f"no recording {name} in {path.parent}: set CCXTBT_RECORDED to the folder of recorded data")
    return path

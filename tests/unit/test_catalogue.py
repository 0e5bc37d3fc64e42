"""docs/exchanges.md says what the tables say today, of every exchange."""

from __future__ import annotations

from pathlib import Path

import ccxt
import pytest
from typer.testing import CliRunner

from ccxtbt import catalogue
from ccxtbt.cli import app
from ccxtbt.exchange.exchanges import NO_CLIENT_IDS, TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exchanges.md"


def test_the_committed_page_is_what_the_command_writes() -> None:
    committed = PAGE.read_text()
    if f"ccxt\n{ccxt.__version__} " not in committed:
        pytest.skip(f"docs/exchanges.md was written with another ccxt than {ccxt.__version__}, which says other things")
    written = CliRunner().invoke(app, ["exchanges"])
    assert written.exit_code == 0
    assert committed == written.stdout, "write it anew: python -m ccxtbt exchanges > docs/exchanges.md"


def sections() -> dict[str, list[list[str]]]:
    """Return the rows of the tables by the title above them."""
    found: dict[str, list[list[str]]] = {}
    for section in catalogue.page().split("\n## ")[1:]:
        title, *lines = section.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        found[title] = cells[2:]
        assert {len(row) for row in cells} == {len(cells[0])}
        assert all(all(row) for row in cells), "a cell says nothing"
    return found


def test_every_exchange_is_in_it_and_those_without_client_ids_are_named() -> None:
    tables = sections()
    assert [row[0] for row in tables["Bars and streams"]] == ccxt.exchanges
    ids = {row[0]: row for row in tables["Client order ids"]}
    assert {name for name, row in ids.items() if row[1] == "none"} == NO_CLIENT_IDS
    assert ids["okx"][1:] == [
        "asked for (spot, swap, future); looked for (option)",
        "`clientOrderId`",
        "text, 32 characters",
    ]
    assert {row[0] for row in tables["Limits that are known"]} == set(TABLE)
    orders = {(row[0], row[1]): row[2:] for row in tables["Orders"]}
    assert orders["mexc", "spot"][:3] == ["here", "here", "here"]
    assert orders["okx", "swap"][:2] == ["exchange (`triggerPrice`)", "exchange (by amount or percent)"]
    bars = {row[0]: row[3:] for row in tables["Bars and streams"]}
    assert bars["binance"] == ["fast", "final", "ours", "ours", "orders, trades, balance"]
    assert bars["coinbase"] == ["fast", "from trades", "none", "ours", "orders"]
    assert bars["btcturk"][:2] == ["ccxt", "polled"]

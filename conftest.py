"""Pytest options of the project."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run benchmarks/ instead of tests/")
    parser.addoption("--originals", metavar="PATH", help="a checkout of bt-ccxt-store whose own samples are to be run")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(config.rootpath / "benchmarks")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Soak tests run only when asked for by `-m soak`."""
    if "soak" in (config.getoption("-m") or ""):
        return
    kept = [item for item in items if item.get_closest_marker("soak") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
    items[:] = kept

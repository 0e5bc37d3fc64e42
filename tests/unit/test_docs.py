"""The commands that the documents give select tests that exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(set(re.findall(r"`(pytest [^`]*tests[^`]*)`", (ROOT / "docs" / "guarantees.md").read_text())))


def test_the_document_has_commands():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("document", ["guarantees.md", "migration.md", "backtest-and-live.md"])
def test_files_that_a_document_names_exist(document):
    text = (ROOT / "docs" / document).read_text()
    named = set(re.findall(r"\b((?:tests|docs|ccxtbt|benchmarks)/[\w./-]*\w)", text))
    missing = {name for name in named if not (ROOT / name).exists()}
    # A file of bt-ccxt-store's own.
    assert {name for name in missing if not name.startswith("ccxtbt/test_optional")} == set()


def test_each_word_of_a_selection_selects_something():
    """Hold each ``-k`` against the names in the files that its command names, and ``-m soak`` against their marks."""
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        paths = [ROOT / word for word in words if word.startswith("tests")]
        assert all(path.exists() for path in paths), command
        files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
        text = "\n".join(file.read_text() for file in files)
        if "-k" in words:
            names = re.findall(r"def (test_\w+)", text)
            for wanted in words[words.index("-k") + 1].split(" or "):
                assert any(wanted in name for name in names), (command, wanted)
        if "-m" in words:
            assert all("mark.soak" in file.read_text() for file in files), command

"""The rooms of the house: who may import whom, read from the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ccxtbt"
SOURCES = sorted(PACKAGE.rglob("*.py"))

FRONTS = {
    "ccxtstore",
    "ccxtfeed",
    "ccxtbroker",
    "ccxtorder",
    "livedesk",
    "livebooks",
    "legs",
    "restored",
    "liveswaps",
    "bracketorders",
    "bulkfeed",
    "ending",
    "inbox",
    "mailbox",
    "metrics",
    "resampled",
    "gathering",
    "forming",
}
TOP = {"catalogue", "cli", "demo", "__main__"}
GROUND = {
    "errors",
    "market.timeframes",
    "exchange.facts",
    "exchange.exchanges",
    "compat.oldoptions",
    "compat.oldviews",
}
# room -> the rooms it may import, besides itself and the ground
ALLOWED = {
    "ground": set(),
    "exchange": set(),
    "market": {"exchange"},
    "trading": {"exchange"},
    "sim": set(),
    "front": {"exchange", "market", "trading"},
    "compat": {"exchange", "market", "trading", "front"},
    "top": {"exchange", "market", "trading", "front", "compat", "sim"},
    "face": {"exchange", "market", "trading", "front", "compat"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(name: str) -> str:
    first = name.split(".")[0]
    if name == "__init__":
        return "face"
    if name in GROUND or (first.startswith("_") and first not in TOP):
        return "ground"
    if first in FRONTS:
        return "front"
    return "top" if first in TOP else first


def imports_of(path: Path) -> set[str]:
    """All modules that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" if exists(f"{module}.{alias.name}") else module for alias in node.names}
    return found


def exists(module: str) -> bool:
    path = ROOT / Path(*module.split("."))
    return path.with_suffix(".py").exists() or path.with_suffix(".pyi").exists() or path.is_dir()


def ours(module: str) -> str | None:
    if module == "ccxtbt":
        return "__init__"
    return module.removeprefix("ccxtbt.") if module.startswith("ccxtbt.") else None


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_room_imports_only_those_below_it(path):
    name = name_of(path)
    room = room_of(name)
    for module in imports_of(path):
        target = ours(module)
        if target is None:
            continue
        reached = room_of(target)
        if room == "sim":
            assert reached == "sim", f"{name} imports {target}: the judge shares nothing with what it judges"
        elif target == "__init__":
            assert room == "top", f"{name} imports the package's face"
        else:
            assert reached in {room, "ground"} | ALLOWED[room], f"{name} ({room}) imports {target} ({reached})"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_backtrader_ccxt_and_threads_stay_in_their_rooms(path):
    name = name_of(path)
    room = room_of(name)
    roots = {module.split(".")[0] for module in imports_of(path)}
    if "backtrader" in roots:
        assert room in {"front", "top", "compat"} or name in {
            "market.timeframes",
            "trading.orders",
            "trading.sizes",
        }, f"{name} imports backtrader"
    if "ccxt" in roots:
        assert room == "exchange", f"{name} imports ccxt"
    if roots & {"threading", "_thread", "queue", "multiprocessing"}:
        assert room in {"exchange", "sim", "top"} or name in {
            "inbox",
            "mailbox",
            "trading.journal",
            "compat.oldviews",
        }, f"{name} uses threads"


def test_no_imports_in_circles():
    graph = {
        name_of(path).removesuffix(".__init__"): {target for module in imports_of(path) if (target := ours(module))}
        for path in SOURCES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_each_extension_has_a_source_and_a_stub():
    sources = {path.stem for path in (ROOT / "src_cython").glob("*.pyx")}
    stubs = {path.stem for path in PACKAGE.glob("_*.pyi")}
    assert sources == stubs


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_library_never_prints(path):
    if room_of(name_of(path)) == "top" or name_of(path) == "sim.__main__":
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]

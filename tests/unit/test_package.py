"""The package as a user gets it: an sdist, a wheel from it, and what an installation without its core says."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(
        sys.executable,
        "-c",
        "from setuptools import build_meta as b; import sys; b.build_sdist(sys.argv[1])",
        out,
        cwd=ROOT,
    )
    return next(out.glob("ccxtbt-*.tar.gz"))


def test_the_sdist_has_what_a_build_and_the_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    wanted = {"src_cython/_ohlcv.pyx", "ccxtbt/_ohlcv.pyi", "ccxtbt/py.typed", "LICENSE", "README.md", "Makefile"}
    assert wanted <= names
    assert {f"ccxtbt/{path.relative_to(ROOT / 'ccxtbt')}" for path in (ROOT / "ccxtbt").rglob("*.py")} <= names
    assert not [name for name in names if name.endswith((".so", ".c", ".pyc"))]


def test_a_wheel_from_the_sdist_runs_without_the_sources(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build = "from setuptools import build_meta as b; import sys; b.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=source)
    wheel = next(tmp_path.glob("ccxtbt-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for module in (ROOT / "src_cython").glob("*.pyx"):
            assert [
                name for name in names if name.startswith(f"ccxtbt/{module.stem}.") and name.endswith((".so", ".pyd"))
            ]
        assert not [name for name in names if name.endswith((".c", ".pyx"))]
        archive.extractall(tmp_path / "installed")
    # An environment of its own that borrows this one's dependencies: downloads would prove nothing about the package.
    venv.create(tmp_path / "venv", with_pip=False)
    borrowed = Path(next(path for path in sys.path if path.endswith("site-packages")))
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'installed')!r}]; sys.path.append({str(borrowed)!r}); "
        "import ccxtbt; print(ccxtbt.__file__)"
    )
    printed = run(tmp_path / "venv" / "bin" / "python", "-c", code, cwd=tmp_path)
    assert printed.strip().startswith(str(tmp_path / "installed"))


def test_a_missing_core_is_said_in_one_sentence(tmp_path):
    package = tmp_path / "ccxtbt"
    package.mkdir()
    for name in ("__init__.py", "errors.py"):
        (package / name).write_text((ROOT / "ccxtbt" / name).read_text())
    # Without site: an editable installation would lend it the compiled modules of this checkout.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import ccxtbt"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        "UnbuiltError: The compiled part of ccxtbt is missing (_bars, _frames, _lines, _ohlcv, _ratelimit)"
        in done.stderr
    )


def test_an_import_brings_in_nothing_that_only_some_need(tmp_path):
    """Every script needs ccxt, backtrader and numpy; none pays for archive, metrics or simulator unasked."""
    loaded = run(sys.executable, "-c", "import sys, ccxtbt; print(*sys.modules)", cwd=tmp_path).split()
    some = {"pyarrow", "pandas", "polars", "matplotlib", "prometheus_client", "google.protobuf"}
    some |= {"ccxtbt.market.archive", "ccxtbt.metrics", "ccxtbt.cli", "ccxtbt.demo", "ccxtbt.sim"}
    assert not some & set(loaded)
    assert {"ccxtbt", "ccxt.pro"} <= set(loaded)

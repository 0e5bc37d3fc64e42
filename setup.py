"""Build the compiled core: one extension for each file of src_cython."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# CCXTBT_DEBUG=1 builds with bounds checks; CCXTBT_SANITIZE=1 adds AddressSanitizer (tests/fuzz_ohlcv.py says how).
DEBUG = os.environ.get("CCXTBT_DEBUG") == "1"
SANITIZE = os.environ.get("CCXTBT_SANITIZE") == "1"


def compile_args() -> list[str]:
    if sys.platform == "win32":
        return ["/O2"]
    args = ["-O1", "-g"] if DEBUG or SANITIZE else ["-O2", "-g0"]
    return [*args, "-fsanitize=address", "-fno-omit-frame-pointer"] if SANITIZE else args


def extensions() -> list[Extension]:
    return [
        Extension(
            f"ccxtbt.{path.stem}",
            [path.as_posix()],
            extra_compile_args=compile_args(),
            extra_link_args=["-fsanitize=address"] if SANITIZE else [],
        )
        for path in sorted(Path("src_cython").glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        include_path=["src_cython"],
        force=True,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "wraparound": False,
            "cdivision": True,
            "boundscheck": DEBUG or SANITIZE,
            "freethreading_compatible": True,
            "auto_pickle": False,
            "autotestdict": False,
        },
    ),
)

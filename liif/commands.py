"""The installed commands `liif-train`, `liif-test` and `liif-demo`: the scripts, from anywhere."""

from __future__ import annotations

import runpy
import sys

from liif import TREE


def train() -> None:
    _run("train_liif.py")


def test() -> None:
    _run("test.py")


def demo() -> None:
    _run("demo.py")


def _run(script: str) -> None:
    """Run a script as `python SCRIPT` does, its folder first on the path."""
    sys.path.insert(0, str(TREE))
    runpy.run_path(str(TREE / script), run_name="__main__")

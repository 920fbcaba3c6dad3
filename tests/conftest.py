"""Fixtures and command-line options shared by all tests."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before torch is loaded, for this process and those that tests start: many at a time on few cores
# would otherwise wait for each other's threads, busily. Results do not depend on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.data._utils import signal_handling

from engine import runtime
from tests.commands import Commands
from tests.runs import RUN, WarmRuns, outcome, write_config

ROOT = Path(__file__).resolve().parent.parent
# A loader of PyTorch's own, in a test that compares with it, would have every later end of a
# process raised wherever the tests happen to be.
signal_handling._SIGCHLD_handler_set = True


torch.manual_seed(0)  # for what modules of tests draw when they are loaded


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No test depends on what others have drawn before it, so that none fails by chance."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published weights and benchmark pictures, or a skip that says why."""
    folder = os.environ.get("LIIF_REFERENCE")
    if not folder:
        pytest.skip("LIIF_REFERENCE names no folder with published weights and Set5")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"LIIF_REFERENCE: {folder} is no folder")
    return path


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes in bfloat16 also on a processor that can only imitate it, slowly: for small work."""
    monkeypatch.setattr(runtime, "has_bf16", lambda kind: True)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The scripts in processes that have imported everything already."""
    with Commands() as started:
        yield started


@pytest.fixture(scope="session")
def warm(commands: Commands) -> WarmRuns:
    """Training runs in such processes."""
    return WarmRuns(commands)


@pytest.fixture(scope="session")
def undisturbed(warm: WarmRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where a run of `tiny.yaml` ends that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_config(folder)
    code, text = warm.run(folder)
    assert code == 0, text
    return outcome(folder / RUN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures and the configuration `tiny.yaml`."""
    write_config(tmp_path)
    return tmp_path

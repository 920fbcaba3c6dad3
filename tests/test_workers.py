"""Processes that make batches end when they are told to, and their errors are told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.workers import Loader, LostWorker, default_workers
from tests.runs import wait_for


class Odd(Exception):
    """Can't be made from its message, as pickle would."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"odd {one} {other}")


@dataclass
class Failing:
    """Makes three batches, and does something else instead of the fourth."""

    act: Callable[[], Any]

    def __call__(self, number: int) -> Tensor:
        return self.act() if number == 3 else torch.full((5,), number)


def rest(act: Callable[[], Any], workers: int = 1) -> list[Tensor]:
    """What comes before the failure, which is raised."""
    return list(Loader(Failing(act), range(6), workers))


def throw(error: BaseException) -> Callable[[], Any]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stop_iteration_is_no_end_of_the_data(workers: int) -> None:
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        rest(throw(StopIteration("mine")), workers)
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("code", [None, 0])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_exit_without_error_is_no_end_of_the_program(workers: int, code: int | None) -> None:
    with pytest.raises(RuntimeError, match=r"exit\(\) called by code") as caught:
        rest(throw(SystemExit(code)), workers)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes 12 and 34 of DataLoader worker (pid 56)"),
        KeyError("mine"),
        MemoryError("of 12 GiB"),
        OSError(errno.ENOSPC, "No space left on device"),
        SystemExit(7),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_itself_with_its_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)) as alone:
        rest(throw(error), workers=0)
    with pytest.raises(type(error)) as caught:
        rest(throw(error))
    assert type(caught.value) is type(alone.value)
    assert caught.value.args == alone.value.args == error.args
    assert ", in act\n" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"^Odd: odd 1 2$") as caught:
        rest(throw(Odd(1, 2)))
    assert ", in act\n" in str(caught.value.__cause__)
    with pytest.raises(AttributeError, match="local object"):
        rest(lambda: lambda: None)  # a batch that can't be pickled


@pytest.mark.slow  # PyTorch looks after its processes every five seconds
@pytest.mark.parametrize(
    ("signum", "words"),
    [
        (signal.SIGKILL, r"was killed \(process \d+; the memory may have been full\)$"),
        (signal.SIGSEGV, r"ended with SIGSEGV \(process \d+\)$"),
        (signal.SIGBUS, r"was ended by a bus error .*/dev/shm.*--shm-size.*num_workers"),
    ],
)
def test_a_killed_process_is_told_by_its_signal(signum: signal.Signals, words: str) -> None:
    with pytest.raises(LostWorker, match=f"^a loader process {words}"):
        rest(lambda: os.kill(os.getpid(), signum))


def test_a_process_that_ends_is_told_by_its_exit_code() -> None:
    with pytest.raises(LostWorker, match=r"^a loader process ended with exit code 3 \(process \d+"):
        rest(lambda: os._exit(3))


def limited(kind: str, limit: int) -> Callable[[], Any]:
    """Makes a batch after the process is allowed so much only."""

    def act() -> Tensor:
        import resource

        hard = resource.getrlimit(getattr(resource, kind))[1]
        resource.setrlimit(getattr(resource, kind), (limit, hard))
        return torch.zeros(10_000)

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (limited("RLIMIT_NOFILE", 3), r"too many files are open; .*ulimit -n.*num_workers"),
        (limited("RLIMIT_FSIZE", 0), r"the shared memory \(/dev/shm\) is full; .*--shm-size"),
    ],
    ids=["files", "memory"],
)
def test_a_batch_that_cannot_be_handed_over_is_told(act: Callable[[], Any], words: str) -> None:
    with pytest.raises(LostWorker, match=f"^{words}"):
        rest(act)


def test_a_busy_process_does_not_outlive_its_loader() -> None:
    """Neither one that is told to end, nor one whose parent is gone."""
    loader = Loader(Failing(lambda: time.sleep(1000)), range(6), 2)
    batches = iter(loader)
    assert [int(next(batches)[0]) for _ in range(3)] == [0, 1, 2]
    pids = [worker.pid for worker in loader._iterator._workers]
    started = time.monotonic()
    del batches, loader
    assert time.monotonic() - started < 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """Also where it is killed while they are busy."""
    if (parent := os.fork()) == 0:
        loader = Loader(Failing(lambda: time.sleep(1000)), range(6), 2)
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        pids = [str(worker.pid) for worker in loader._iterator._workers]
        (tmp_path / "part").write_text(" ".join(pids))
        (tmp_path / "part").rename(tmp_path / "pids")
        signal.pause()
    try:
        wait_for((tmp_path / "pids").exists, seconds=60)
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(map(running, pids)), seconds=10)


def running(pid: int) -> bool:
    """Whether a process runs; one that ended may wait for whoever inherits it."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("size", ["20k", "400k"])
def test_a_full_shared_memory(root: Path, size: str) -> None:
    """A small /dev/shm, as Docker's: there is room for some batches, or none to start with."""
    program = (
        "import torch\nfrom engine.workers import Loader\nfrom engine.runtime import run_script\n"
        "def make(number): return torch.zeros(40_000)\n"
        "def main():\n    kept = list(Loader(make, range(20), 2))\n"
        "run_script(main)\n"
    )
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    command = f'{mount} && exec "{sys.executable}" -c "{program}"'
    ended = subprocess.run(
        [*unshare, command], cwd=root, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 1, ended.stderr
    assert "error: the shared memory (/dev/shm) is full; more of it" in ended.stderr


def test_default_workers_are_as_many_as_cores_and_at_most_eight() -> None:
    assert 1 <= default_workers() <= 8


ENDING = """
import multiprocessing, time
from multiprocessing import util
from pathlib import Path
from torch.utils.data import DataLoader
from engine.workers import Loader

class Late:
    '''Arrives in a loader process when the main one ends.'''
    def __reduce__(self):
        return arrive, ()

def arrive():
    while not Path("ending").exists():
        time.sleep(0.01)
    return Late()

def let_it_arrive():
    Path("ending").touch()
    for process in multiprocessing.active_children():
        multiprocessing.process.BaseProcess.join(process, 60)

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    # Of the finalizers that Python's exit handler calls first, the last: the semaphores are gone.
    util.Finalize(None, let_it_arrive, exitpriority=0)
    batches = DataLoader.__iter__(Loader(Late(), [0], 1))
    raise KeyError("of the user")
"""


@pytest.mark.slow
def test_a_process_that_still_starts_prints_nothing_at_the_end(root: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENDING)
    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.endswith("KeyError: 'of the user'\n"), ended.stderr

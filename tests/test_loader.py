"""What a run sees depends on seed, epoch and position, and on nothing else."""

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

import numpy as np
import pytest
import torch
from torch import Tensor

import datasets
from engine.loader import (
    TRAIN_ITEMS,
    Batches,
    Loader,
    LostWorker,
    default_workers,
    make_loader,
)
from tests.runs import make_pictures, tiny_config, wait_for
from utils import DataError

TENSORS = ("inp", "coord", "cell", "gt")


@pytest.fixture
def wrapper(tmp_path: Path) -> Any:
    make_pictures(tmp_path)
    part = tiny_config()["train_dataset"]
    dataset = datasets.make(part["dataset"], {"root_path": str(tmp_path)})
    return datasets.make(part["wrapper"], {"dataset": dataset})


def batches_of(
    wrapper: Any, *, epoch: int = 0, first: int = 0, seed: int = 0, workers: int = 0
) -> list[dict[str, Any]]:
    sampler = Batches(len(wrapper), 4, seed=seed, training=True)
    loader = make_loader(
        wrapper, sampler, stream=TRAIN_ITEMS, num_workers=workers, on_bad_image="stop"
    )
    sampler.start(epoch, first)
    return list(loader)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in (*TENSORS, "indices"))


def test_an_epoch_shows_each_item_once(wrapper: Any) -> None:
    batches = batches_of(wrapper)
    assert [len(batch["inp"]) for batch in batches] == [4, 4, 4, 4, 2]
    indices = torch.cat([batch["indices"] for batch in batches])
    assert sorted(indices.tolist()) == list(range(18))
    assert indices.tolist() != list(range(18))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(wrapper: Any, workers: int) -> None:
    alone, together = batches_of(wrapper), batches_of(wrapper, workers=workers)
    assert len(alone) == len(together) == 5
    assert all(map(same, alone, together))


def test_beginning_later_changes_nothing(wrapper: Any) -> None:
    whole = batches_of(wrapper, epoch=2)
    rest = batches_of(wrapper, epoch=2, first=3, workers=1)
    assert len(rest) == 2
    assert all(map(same, whole[3:], rest))


def test_torch_and_numpy_generators_neither_matter_nor_move(wrapper: Any) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    one = batches_of(wrapper)
    torch.manual_seed(2)
    np.random.seed(2)
    before = torch.get_rng_state(), np.random.get_state(legacy=True)[1].copy()  # type: ignore[index]
    other = batches_of(wrapper)
    batches_of(wrapper, workers=1)
    assert all(map(same, one, other))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state(legacy=True)[1])  # type: ignore[index]


def test_seed_epoch_and_position_matter(wrapper: Any) -> None:
    first, second, other = (
        batches_of(wrapper, epoch=epoch, seed=seed)[0] for epoch, seed in ((0, 0), (1, 0), (0, 1))
    )
    for one, two in ((first, second), (first, other), (second, other)):
        assert not torch.equal(one["indices"], two["indices"])
    # The same photograph comes three times in an epoch, and is drawn differently each time.
    crops: dict[int, list[bytes]] = {}
    for batch in batches_of(wrapper):
        for index, coord in zip(batch["indices"].tolist(), batch["coord"], strict=True):
            crops.setdefault(index % 6, []).append(coord.numpy().tobytes())
    assert all(len(set(drawn)) == 3 for drawn in crops.values())


def test_processes_share_out_the_batches_of_one(wrapper: Any) -> None:
    alone = list(Batches(18, 4, seed=3, training=True))
    parts = [list(Batches(18, 4, seed=3, training=True, rank=r, processes=2)) for r in range(2)]
    assert [one + two for one, two in zip(*parts, strict=True)] == alone
    # Of three processes the third gets no item of the last batch of two: its first, for no weight.
    three = [list(Batches(18, 6, seed=3, training=True, rank=r, processes=3)) for r in range(3)]
    whole = list(Batches(18, 6, seed=3, training=True))
    assert [sum(batch, []) for batch in zip(*three, strict=True)] == whole  # noqa: RUF017
    last = [list(Batches(8, 6, seed=3, training=True, rank=r, processes=3))[-1] for r in range(3)]
    assert last[2] == last[0]
    assert last[1] != last[0]


def test_validation_is_in_order_and_the_same_each_time() -> None:
    sampler = Batches(5, 2, seed=0, training=False)
    assert [[key.item for key in batch] for batch in sampler] == [[0, 1], [2, 3], [4]]


class Broken:
    """Items of numbers; some of them can't be read."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 12

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if index in self.bad:
            raise DataError(f"{index}.png: no picture")
        return {"inp": torch.tensor([float(index), rng.random()])}


def loaded(bad: set[int], on_bad_image: str, workers: int = 0) -> list[Any]:
    sampler = Batches(12, 4, seed=0, training=True)
    loader = make_loader(
        Broken(bad), sampler, stream=0, num_workers=workers, on_bad_image=on_bad_image
    )
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_item_is_named(workers: int) -> None:
    with pytest.raises(DataError, match=r"^7\.png: no picture$"):
        loaded({7}, "stop", workers)


def test_broken_items_are_replaced_by_the_same_others() -> None:
    one, other = loaded({7, 3}, "skip"), loaded({7, 3}, "skip", workers=2)
    for batch, again in zip(one, other, strict=True):
        assert torch.equal(batch["inp"], again["inp"])
        assert batch["skipped"] == again["skipped"]
    shown = torch.cat([batch["inp"] for batch in one])[:, 0].tolist()
    assert len(shown) == 12
    assert not {3.0, 7.0} & set(shown)
    assert sorted(m for batch in one for m in batch["skipped"]) == [
        "3.png: no picture",
        "7.png: no picture",
    ]
    # What is not broken is as it would be without the broken ones.
    sound = {row[0]: row[1] for batch in loaded(set(), "skip") for row in batch["inp"].tolist()}
    kept = [row for batch in one for row in batch["inp"].tolist() if sound[row[0]] == row[1]]
    assert len(kept) >= 10


def test_nothing_can_be_replaced_where_all_are_broken() -> None:
    with pytest.raises(DataError, match="no picture"):
        loaded(set(range(12)), "skip")


class Growing(Broken):
    """Each item larger than the one before."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"inp": torch.zeros(index)}


@pytest.mark.parametrize("workers", [0, 1])
def test_items_of_different_sizes_are_explained(workers: int) -> None:
    sampler = Batches(12, 4, seed=0, training=True)
    loader = make_loader(
        Growing(set()), sampler, stream=0, num_workers=workers, on_bad_image="stop"
    )
    with pytest.raises(DataError, match="differ in size"):
        list(loader)


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
        "import torch\nfrom engine.loader import Loader\nfrom engine.runtime import run_script\n"
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

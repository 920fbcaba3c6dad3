"""What a run sees depends on seed, epoch and position, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datasets
from engine.loader import TRAIN_ITEMS, Batches, Drawn
from engine.workers import Loader
from tests.runs import make_pictures, tiny_config
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
    drawn = Drawn(wrapper, seed=seed, stream=TRAIN_ITEMS, on_bad_image="stop")
    loader = Loader(drawn, sampler, workers)
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
    drawn = Drawn(Broken(bad), seed=0, stream=0, on_bad_image=on_bad_image)
    return list(Loader(drawn, sampler, workers))


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
    drawn = Drawn(Growing(set()), seed=0, stream=0, on_bad_image="stop")
    loader = Loader(drawn, sampler, workers)
    with pytest.raises(DataError, match="differ in size"):
        list(loader)

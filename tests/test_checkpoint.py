"""Checkpoints: whole or not there at all, and harmless whatever they hold."""

from __future__ import annotations

import collections
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models
from engine.weights.checkpoint import (
    checksum,
    load_checkpoint,
    load_model,
    save_checkpoint,
    stripped,
    summary,
)
from utils import DataError

SPEC = {
    "name": "liif",
    "args": {
        "encoder_spec": {
            "name": "edsr-baseline",
            "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True},
        },
        "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}},
    },
}


def make_checkpoint(seed: int = 0, **extra: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = models.make(SPEC)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    return {
        "model": {**SPEC, "sd": model.state_dict()},
        "optimizer": {"name": "adam", "args": {"lr": 1e-4}, "sd": optimizer.state_dict()},
        "epoch": 3,
        **extra,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    save_checkpoint(path, make_checkpoint())
    return path


def test_round_trip_keeps_every_number(saved: Path) -> None:
    made, loaded = make_checkpoint(), load_checkpoint(saved)
    assert loaded.pop("checksum") == checksum(made)
    assert loaded.keys() == made.keys()
    assert loaded["epoch"] == 3
    for name, value in made["model"]["sd"].items():
        assert torch.equal(loaded["model"]["sd"][name], value)
    assert not list(saved.parent.glob("*.tmp"))


def test_published_code_reads_ours(saved: Path) -> None:
    """What the published code does with a file: torch.load, and these keys."""
    content = torch.load(saved, weights_only=True)
    model = models.make(content["model"], load_sd=True)
    optimizer = torch.optim.Adam(model.parameters(), **content["optimizer"]["args"])
    optimizer.load_state_dict(content["optimizer"]["sd"])
    assert content["epoch"] + 1 == 4


def test_load_model_prefers_the_average(tmp_path: Path) -> None:
    averaged = make_checkpoint(seed=1)["model"]["sd"]
    path = tmp_path / "model.pth"
    save_checkpoint(path, make_checkpoint(ema=averaged))
    name = "imnet.layers.0.weight"
    model, raw = load_model(path), load_model(path, raw_weights=True)
    assert not model.training
    assert torch.equal(model.state_dict()[name], averaged[name])
    assert torch.equal(raw.state_dict()[name], make_checkpoint()["model"]["sd"][name])


def test_checksum_sees_names_types_shapes_and_numbers() -> None:
    one = {"a": torch.tensor([1.0, 2.0])}
    others = [
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0000002])},
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor(0)},
    ]
    assert checksum(one) == checksum({"a": torch.tensor([1.0, 2.0]), "text": 5})
    assert len({checksum(value) for value in [one, *others]}) == 6


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/liif-bomb-went-off"),))


def code_as_zip(path: Path) -> None:
    torch.save({"model": Bomb()}, path)


def code_as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Bomb()}))


def code_as_module(path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def no_dictionary(path: Path) -> None:
    torch.save([1, 2, 3], path)


def no_model(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def no_weights(path: Path) -> None:
    torch.save({"model": SPEC, "epoch": 3}, path)


def wrong_epoch(path: Path) -> None:
    torch.save(make_checkpoint(epoch="three"), path)


def unknown_model(path: Path) -> None:
    torch.save({"model": {"name": "leaf", "args": {}, "sd": {}}, "epoch": 1}, path)


def other_shape(path: Path) -> None:
    checkpoint = make_checkpoint()
    checkpoint["model"]["sd"]["imnet.layers.0.weight"] = torch.zeros(8, 5)
    save_checkpoint(path, checkpoint)


def missing_weight(path: Path) -> None:
    checkpoint = make_checkpoint()
    del checkpoint["model"]["sd"]["imnet.layers.0.weight"]
    save_checkpoint(path, checkpoint)


def huge_by_stride(path: Path) -> None:
    checkpoint = make_checkpoint()
    checkpoint["model"]["sd"]["imnet.layers.0.weight"] = torch.zeros(1).expand(10**12)
    torch.save(checkpoint, path)


def inflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))


def changed_number(path: Path) -> None:
    """One bit of a weight, the archive's own checksum repaired."""
    checkpoint = load_checkpoint(path)
    checkpoint["model"]["sd"]["imnet.layers.0.weight"][0, 0] += 1e-7
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (code_as_zip, "holds code"),
        (code_as_pickle, "or holds code"),
        (code_as_module, "holds code"),
        (truncated, "damaged"),
        (empty, "no checkpoint"),
        (a_picture, "no checkpoint"),
        (no_dictionary, "no checkpoint (it holds list"),
        (no_model, "no key `model`"),
        (no_weights, "its model has no sd"),
        (wrong_epoch, "its epoch is three"),
        (unknown_model, "leaf"),
        (other_shape, "imnet.layers.0.weight (8, 5)"),
        (missing_weight, "imnet.layers.0.weight"),
        (huge_by_stride, "larger than its data"),
        (inflated, "compressed"),
        (changed_number, "checksum"),
    ],
)
def test_bad_files_are_refused_in_one_line(saved: Path, spoil: Any, expected: str) -> None:
    spoil(saved)
    with pytest.raises(DataError) as caught:
        load_model(saved)
    message = str(caught.value)
    assert expected in message
    assert str(saved) in message
    assert "\n" not in message
    assert len(message) < 500
    assert not Path("/tmp/liif-bomb-went-off").exists()


def test_a_changed_plain_number_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    place = content.index(b"K\x03", content.index(b"epoch"))  # the pickled number 3
    content[place + 1] = 9
    saved.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(saved)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(DataError, match="a folder"):
        load_checkpoint(tmp_path)


def test_names_that_no_file_can_have_are_refused() -> None:
    for name in ("a\0b.pth", "\udcff\ud800.pth"):
        with pytest.raises(DataError, match=r"^'.*': can't be read \("):
            load_checkpoint(name)


def test_a_checkpoint_without_an_optimizer(tmp_path: Path) -> None:
    """Such as other tools make from published ones."""
    path = tmp_path / "a.pth"
    save_checkpoint(path, {**make_checkpoint(), "optimizer": None})
    lines = summary(path)
    assert lines[0].startswith("model: ")
    assert not any(line.startswith("optimizer") for line in lines)
    assert stripped(path)["optimizer"] == {"name": None, "args": None, "sd": {}}


def test_a_failed_write_leaves_the_file_before(saved: Path) -> None:
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(DataError, match=r"model\.pth: can't be written \(File too large\)"):
            save_checkpoint(saved, make_checkpoint(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before
    assert not list(saved.parent.glob("*.tmp"))


def corrupt(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One way of spoiling a file: bytes flipped, cut off, zeroed, doubled or replaced."""
    data = np.frombuffer(content, np.uint8).copy()
    kind = ["flip", "cut", "zeros", "shuffle", "noise"][rng.integers(5)]
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 2000)))
    if kind == "flip":
        places = rng.integers(0, len(data), int(rng.integers(1, 40)))
        data[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    elif kind == "cut":
        data = data[:start]
    elif kind == "zeros":
        data[start:stop] = 0
    elif kind == "shuffle":
        rng.shuffle(data[start:stop])
    else:
        data[start:stop] = rng.integers(0, 256, stop - start, dtype=np.uint8)
    return kind, data.tobytes()


def test_corrupted_checkpoints_are_read_whole_or_refused(saved: Path) -> None:
    """No crash, and never a number other than those that were written."""
    good = saved.read_bytes()
    sound = load_checkpoint(saved)["checksum"]
    rng = np.random.default_rng(7)
    outcomes: collections.Counter[str] = collections.Counter()
    messages: list[str] = []
    for number in range(150):
        kind, content = corrupt(good, rng)
        path = saved.with_name(f"{number}.pth")
        path.write_bytes(content)
        try:
            loaded = load_checkpoint(path)
        except DataError as error:
            messages.append(str(error))
            outcomes[f"{kind}: refused"] += 1
        else:
            rest = {key: value for key, value in loaded.items() if key != "checksum"}
            assert checksum(rest) == sound
            outcomes[f"{kind}: whole"] += 1
        path.unlink()
    print(dict(sorted(outcomes.items())))
    assert not any("\n" in message for message in messages)
    assert sum(count for name, count in outcomes.items() if "refused" in name) > 75


def verify(path: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.weights", "verify", str(path)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)


def test_verify_command(saved: Path, root: Path) -> None:
    whole = verify(saved, root)
    assert whole.returncode == 0
    assert whole.stdout.endswith(f"{saved}: whole\n")
    assert "epoch: 3 finished" in whole.stdout
    assert "checksum: sha256:" in whole.stdout
    changed_number(saved)
    damaged = verify(saved, root)
    assert damaged.returncode == 1
    assert damaged.stderr == (f"error: {saved}: damaged (its tensors do not match its checksum)\n")


def test_strip_keeps_what_predicts(tmp_path: Path, root: Path) -> None:
    averaged = make_checkpoint(seed=1)["model"]["sd"]
    whole, small = tmp_path / "whole.pth", tmp_path / "small.pth"
    save_checkpoint(whole, make_checkpoint(ema=averaged))
    command = [sys.executable, "-m", "engine.weights", "strip", str(whole), str(small)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{small}: whole\n")
    weights = load_model(small).state_dict()
    assert all(torch.equal(weights[name], averaged[name]) for name in averaged)
    assert load_checkpoint(small)["epoch"] == 3
    assert small.stat().st_size < whole.stat().st_size


def test_average_of_two_sittings(tmp_path: Path, root: Path) -> None:
    checkpoints = [make_checkpoint(seed=seed) for seed in (1, 2)]
    files = [tmp_path / "one.pth", tmp_path / "two.pth"]
    for file, checkpoint in zip(files, checkpoints, strict=True):
        save_checkpoint(file, checkpoint)
    output = tmp_path / "mean.pth"
    command = [sys.executable, "-m", "engine.weights", "average", *map(str, files), str(output)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{output}: whole\n")
    mean = load_model(output).state_dict()
    first, second = (checkpoint["model"]["sd"] for checkpoint in checkpoints)
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    assert any(not torch.equal(mean[name], first[name]) for name in mean)


def test_published_checkpoint(reference: Path) -> None:
    path = next(reference.rglob("edsr-baseline-liif.pth"))
    model = load_model(path)
    assert load_checkpoint(path)["epoch"] == 1000
    assert sum(p.numel() for p in model.parameters()) == 1567323

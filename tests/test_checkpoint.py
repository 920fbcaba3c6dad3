"""Checkpoints: whole or not there at all, and harmless whatever they hold."""

from __future__ import annotations

import argparse
import collections
import functools
import pickle
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from engine.weights import load_checkpoint, load_model, save_checkpoint
from engine.weights.__main__ import main, stripped, summary
from engine.weights.checkpoint import check_answers, checksum
from tests.small import TINY as SPEC
from utils import ConfigError, DataError


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
    assert len(message.replace(str(saved.with_suffix("")), "")) < 500
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


def test_a_model_must_keep_features_for_later() -> None:
    """By which it is validated, and rendered in parts: found before training, not after it."""

    class Once(nn.Module):
        def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
            return coord

    with pytest.raises(ConfigError, match=r"'once' given; allowed: models with gen_feat"):
        check_answers(Once(), "once")


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


# The commands


def test_verify_command(saved: Path, root: Path) -> None:
    command = [sys.executable, "-m", "engine.weights", "verify", str(saved)]
    whole = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert whole.returncode == 0
    assert whole.stdout.endswith(f"{saved}: whole\n")
    assert "epoch: 3 finished" in whole.stdout
    assert "checksum: sha256:" in whole.stdout
    changed_number(saved)
    damaged = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert damaged.returncode == 1
    assert damaged.stderr == f"error: {saved}: damaged (its tensors do not match its checksum)\n"


def test_strip_keeps_what_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averaged = make_checkpoint(seed=1)["model"]["sd"]
    whole, small = tmp_path / "whole.pth", tmp_path / "small.pth"
    save_checkpoint(whole, make_checkpoint(ema=averaged))
    main(["strip", str(whole), str(small)])
    assert capsys.readouterr().out.endswith(f"{small}: whole\n")
    weights = load_model(small).state_dict()
    assert all(torch.equal(weights[name], averaged[name]) for name in averaged)
    assert load_checkpoint(small)["epoch"] == 3
    assert small.stat().st_size < whole.stat().st_size


def test_average_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = [make_checkpoint(seed=seed) for seed in (1, 2)]
    files = [tmp_path / "one.pth", tmp_path / "two.pth"]
    for file, checkpoint in zip(files, checkpoints, strict=True):
        save_checkpoint(file, checkpoint)
    output = tmp_path / "mean.pth"
    main(["average", *map(str, files), str(output)])
    assert capsys.readouterr().out.endswith(f"{output}: whole\n")
    mean = load_model(output).state_dict()
    first, second = (checkpoint["model"]["sd"] for checkpoint in checkpoints)
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    assert any(not torch.equal(mean[name], first[name]) for name in mean)


def test_average_refuses_another_model(saved: Path, tmp_path: Path) -> None:
    other = make_checkpoint()
    other["model"] = {**other["model"], "args": {**SPEC["args"], "local_ensemble": False}}
    save_checkpoint(tmp_path / "other.pth", other)
    with pytest.raises(DataError, match=r"other\.pth: of another model than .*model\.pth"):
        main(["average", str(tmp_path / "other.pth"), str(saved), str(tmp_path / "mean.pth")])
    assert not (tmp_path / "mean.pth").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda weight: weight.to(torch.complex64),
            "type of .* torch.complex64 instead of torch.f",
        ),
        (lambda weight: weight.long(), "type of .* torch.int64 instead of torch.float32"),
        (lambda weight: weight > 0, "type of .* torch.bool instead of torch.float32"),
        (lambda weight: weight / 0, "not finite: imnet.layers.0.weight"),
        (lambda weight: weight * float("nan"), "not finite: imnet.layers.0.weight"),
    ],
)
def test_weights_that_can_not_be_right_are_refused(
    change: Any, expected: str, tmp_path: Path
) -> None:
    """They would be converted in silence, or give a black picture."""
    checkpoint = make_checkpoint()
    weights = checkpoint["model"]["sd"]
    weights["imnet.layers.0.weight"] = change(weights["imnet.layers.0.weight"])
    save_checkpoint(tmp_path / "model.pth", checkpoint)
    with pytest.raises(DataError, match=expected):
        load_model(tmp_path / "model.pth")


def test_weights_of_half_precision_are_weights(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    half = {name: value.half() for name, value in checkpoint["model"]["sd"].items()}
    save_checkpoint(tmp_path / "model.pth", make_checkpoint(ema=half))
    loaded = load_model(tmp_path / "model.pth").state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in half.items())


# What other tools leave in their files


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("key", ["sd", "ema"])
def test_names_of_wrapped_models(tmp_path: Path, prefix: str, key: str) -> None:
    """As DataParallel and torch.compile save them."""
    checkpoint = make_checkpoint(seed=1)
    state = checkpoint["model"]["sd"]
    wrapped = {prefix + name: value for name, value in state.items()}
    if key == "sd":
        checkpoint["model"] = {**SPEC, "sd": wrapped}
    else:
        checkpoint["model"] = {**SPEC, "sd": {n: torch.zeros_like(v) for n, v in state.items()}}
        checkpoint["ema"] = wrapped
    torch.save(checkpoint, tmp_path / "model.pth")
    loaded = load_model(tmp_path / "model.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    plain = stripped(str(tmp_path / "model.pth"))["model"]["sd"]
    assert plain.keys() == state.keys()


def test_names_of_real_wrappers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = models.make(SPEC)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parts = models.make(SPEC)
    parts.load_state_dict(state)
    parts.encoder = torch.compile(parts.encoder)  # as is done to a part of a model
    both = torch.nn.DataParallel(torch.compile(model))
    assert next(iter(both.state_dict())).startswith("module._orig_mod.")
    for wrapped in (both, parts):
        torch.save({"model": {**SPEC, "sd": wrapped.state_dict()}}, tmp_path / "model.pth")
        loaded = load_model(tmp_path / "model.pth").state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_weight_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    state = make_checkpoint()["model"]["sd"]
    name = next(iter(state))
    twice = {**state, f"module.{name}": torch.zeros_like(state[name])}
    torch.save({"model": {**SPEC, "sd": twice}}, tmp_path / "model.pth")
    with pytest.raises(DataError, match=rf"unknown module\.{name}"):
        load_model(tmp_path / "model.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    numbers = {
        "best": np.float64(28.125),
        "loss": [np.float32(0.1), np.float16(-2.5)],
        "step": {"count": np.int64(-(2**40)), "byte": np.uint8(200), "last": np.bool_(True)},
        "far": np.dtype(">f8").type(1e300),
        "name": np.str_("liif \u00e9"),
    }
    torch.save(
        make_checkpoint(**{**numbers, "epoch": np.int64(7)}),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert (loaded["best"], loaded["far"], loaded["name"]) == (28.125, 1e300, "liif \u00e9")
    assert loaded["loss"] == [float(np.float32(0.1)), -2.5]
    assert loaded["step"] == {"count": -(2**40), "byte": 200, "last": True}
    assert loaded["epoch"] == 7
    assert type(loaded["epoch"]) is int
    assert type(loaded["best"]) is float
    load_model(path)


class Elsewhere:
    """A class of the user's own, whose instance stands beside the weights."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (argparse.Namespace(lr=1e-4), "argparse.Namespace"),
        (Elsewhere(), "test_checkpoint.Elsewhere"),
        (np.zeros(3), "multiarray._reconstruct"),
        (Path("data"), "PosixPath"),
        (np.datetime64("2020-01-01"), "numpy.datetime64"),
        (functools.partial(print, 1), "functools.partial"),
        (collections.defaultdict(list), "collections.defaultdict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_beside_the_weights_are_refused(
    tmp_path: Path, thing: Any, name: str, zipped: bool
) -> None:
    path = tmp_path / "model.pth"
    torch.save(make_checkpoint(args=thing), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert re.search(rf"refused \(it holds code, \S*{re.escape(name)}", message), message
    assert "save it again without: python -c " in message
    assert "\n" not in message


def test_the_command_that_saves_a_file_again(tmp_path: Path) -> None:
    """Copied from the message into a shell, whatever the file is called."""
    path = tmp_path / "it's my model.pth"
    checkpoint = make_checkpoint(args=argparse.Namespace(lr=1e-4))
    torch.save(checkpoint, path)
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    command = str(caught.value).split("save it again without: python ")[1].removesuffix(")")
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True, timeout=120)
    plain = load_checkpoint(tmp_path / "it's my model-plain.pth")
    assert plain.keys() == {"model", "optimizer", "epoch"}
    state = checkpoint["model"]["sd"]
    assert all(torch.equal(plain["model"]["sd"][name], state[name]) for name in state)


def test_published_checkpoint(reference: Path) -> None:
    path = next(reference.rglob("edsr-baseline-liif.pth"))
    model = load_model(path)
    assert load_checkpoint(path)["epoch"] == 1000
    assert sum(p.numel() for p in model.parameters()) == 1567323

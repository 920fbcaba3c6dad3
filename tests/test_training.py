"""The training loop against plain PyTorch, its schedule, its averages and its records."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import math
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog

import datasets
import models
from engine.config import read_train_config
from engine.distributed import Processes
from engine.loader import Batches, Drawn
from engine.runtime import say
from engine.train import loop
from engine.train.loop import log_replaced, normalise, train
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import TensorBoardWriter, Throughput
from engine.train.run import Run, save
from engine.train.run_folder import LOSSES_HEADER, LossLog, RunFolder, run_name
from engine.train.setup import Options, prepare
from engine.train.signals import Stopped, StopRequest
from engine.weights.checkpoint import load_checkpoint
from engine.workers import Loader
from tests.commands import contents
from tests.runs import RUN, WarmRuns, finish, make_pictures, tiny_config
from utils import ConfigError, DataError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(
    place: Path,
    name: str = "run",
    options: Options | None = None,
    device: torch.device = CPU,
    **changes: Any,
) -> Run:
    config = read_train_config(tiny_config(**changes))
    run = prepare(config, place / name, options or Options(), Processes(), device, StopRequest())
    assert run is not None
    return run


def trained(place: Path, name: str = "run", **changes: Any) -> dict[str, Any]:
    run = prepared(place, name, **changes)
    train(run)
    return load_checkpoint(place / name / "epoch-last.pth")


def resumed(place: Path, name: str = "run", **changes: Any) -> Run:
    options = Options(resume="auto", resume_anyway=True)
    return prepared(place, name, options, **changes)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_step_is_that_of_a_plain_loop(place: Path, optimizer: str) -> None:
    """Normalise, predict, L1, backward, step: written out here once more."""
    args = {"lr": 1e-2} if optimizer == "adam" else {"lr": 1e-2, "momentum": 0.9}
    changes = {"optimizer": {"name": optimizer, "args": args}}
    checkpoint = trained(place, **changes)

    run = prepared(place, "again", **changes)
    torch.manual_seed(0)
    model = models.make(run.config.model)
    maker = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    plain = maker(model.parameters(), **args)
    schedule = torch.optim.lr_scheduler.MultiStepLR(plain, milestones=[1, 2], gamma=0.5)
    losses = []
    for epoch in range(3):
        run.train_data.batches.start(epoch)
        for batch in run.train_data.loader:
            colours = model((batch["inp"] - 0.5) / 0.5, batch["coord"], batch["cell"])
            loss = (colours - (batch["gt"] - 0.5) / 0.5).abs().mean()
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
        schedule.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(checkpoint["model"]["sd"][name], value, atol=1e-6, rtol=0), name
    lines = (place / "run/losses.csv").read_text().splitlines()[1:]
    assert [float(line.split(",")[2]) for line in lines] == pytest.approx(losses, abs=1e-6)


def test_loss_falls_on_a_single_picture(place: Path) -> None:
    for number in range(1, 6):
        (place / f"pictures/{number}.png").unlink()
    losses = losses_of(
        place, "run", epoch_max=40, epoch_val=None, epoch_save=None, multi_step_lr=None,
        train_dataset__dataset__args__repeat=4,
        train_dataset__wrapper={"name": "sr-implicit-downsampled", "args": {"scale_min": 1}},
        train_dataset__batch_size=1,
    )  # fmt: skip
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


@pytest.mark.parametrize(
    "args", [{"scale_min": 2}, {"scale_max": 3, "sample_q": 16, "sample_patch": True}]
)
def test_loss_falls_with_other_losses(place: Path, args: dict[str, Any]) -> None:
    """Charbonnier and gradients of whole targets and patches; tests/test_losses.py has numbers."""
    wrapper = {"name": "sr-implicit-downsampled", "args": {"inp_size": 5, **args}}
    losses = losses_of(
        place, "run", epoch_max=12, epoch_val=None, epoch_save=None, multi_step_lr=None,
        train_dataset__wrapper=wrapper, loss={"name": "charbonnier", "gradient": 0.5},
    )  # fmt: skip
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    plain = losses_of(
        place, "plain", epoch_max=1, epoch_val=None, epoch_save=None, multi_step_lr=None,
        train_dataset__wrapper=wrapper,
    )  # fmt: skip
    assert losses[0] > plain[0] + 0.01  # the same first batch and weights


def test_the_average_follows_its_definition(place: Path) -> None:
    """Of what it was it keeps min(decay, (1 + step) / (10 + step))."""
    run = prepared(place, ema_decay=0.3)
    state = run.state
    name = "imnet.layers.0.weight"
    expected = state.model.state_dict()[name].clone()
    for step in (1, 2, 30):
        state.step = step
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.add_(torch.randn_like(parameter))
        state.average(0.3)
        keep = min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * state.model.state_dict()[name]
    assert state.ema is not None
    assert torch.allclose(state.ema.state_dict()[name], expected, atol=1e-6)
    assert state.evaluated is state.ema


def test_the_average_has_the_buffers_of_the_model(place: Path) -> None:
    """Such as the statistics of batch normalisation, which are averages themselves."""
    state = prepared(place, ema_decay=0.9).state
    for model in (state.model, state.ema):
        assert model is not None
        model.register_buffer("statistics", torch.zeros(3))
    assert state.ema is not None
    state.model.get_buffer("statistics").copy_(torch.tensor([1.0, 2.0, 3.0]))
    state.average(0.9)
    assert state.ema.get_buffer("statistics").tolist() == [1, 2, 3]


def test_another_batch_size_leaves_the_schedule_at_its_epoch(place: Path) -> None:
    """Fifteen steps of four items are three epochs, and not seven of those of eight."""
    changes = {"multi_step_lr": {"milestones": [3, 5], "gamma": 0.1}}
    trained(place, epoch_max=3, **changes)
    run = resumed(place, epoch_max=4, train_dataset__batch_size=8, **changes)
    assert run.state.lr == pytest.approx(1e-2)
    train(run)
    assert run.state.lr == pytest.approx(1e-3)


def test_checkpoints_hold_what_issue_and_interface_ask_for(place: Path) -> None:
    checkpoint = trained(place)
    assert {"model", "optimizer", "epoch", "position", "best", "scheduler", "scaler", "ema", "rng",
            "config", "versions", "checksum"} <= checkpoint.keys()  # fmt: skip
    assert checkpoint["model"].keys() == {"name", "args", "sd"}
    assert checkpoint["optimizer"].keys() == {"name", "args", "sd"}
    assert checkpoint["config"]["seed"] == 0
    assert checkpoint["config"]["train_dataset"]["batch_size"] == 4
    group = checkpoint["optimizer"]["sd"]["param_groups"][0]
    assert group["fused"] is None
    saved = {path.name for path in (place / "run").iterdir()}
    assert saved >= {"config.yaml", "log.txt", "losses.csv", "tensorboard", "epoch-last.pth",
                     "epoch-best.pth", "epoch-2.pth"}  # fmt: skip
    assert "epoch-1.pth" not in saved
    again = read_train_config(place / "run/config.yaml")
    assert dataclasses.asdict(again) == dataclasses.asdict(read_train_config(tiny_config()))


def test_init_takes_the_weights_and_nothing_else(place: Path) -> None:
    trained(place)
    run = prepared(place, "fine", init=str(place / "run/epoch-last.pth"), seed=5)
    expected = load_checkpoint(place / "run/epoch-last.pth")["ema"]
    for name, value in run.state.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert (run.state.epoch, run.state.step, run.state.best) == (0, 0, None)
    with pytest.raises(DataError, match=r"init: .*fit"):
        prepared(place, "other", init=str(place / "run/epoch-last.pth"),
                 model__args__imnet_spec__args__hidden_list=[9])  # fmt: skip


SWINIR = {
    "name": "swinir",
    "args": {"embed_dim": 8, "depths": [2], "num_heads": [2], "tail": True},
}


@pytest.mark.parametrize("tail", [True, False])
def test_init_takes_the_weights_of_swinir_itself(place: Path, tail: bool) -> None:
    """A file of its authors: no specification, an enlargement at the end, a mask of 64x64."""
    encoder = models.make({**SWINIR, "args": {**SWINIR["args"], "tail": True}})
    state = {key: torch.randn(value.shape) for key, value in encoder.state_dict().items()}
    state["layers.0.residual_group.blocks.1.attn_mask"] = torch.zeros(64, 64, 64)
    state |= {"upsample.0.weight": torch.zeros(256, 64, 3, 3), "conv_last.bias": torch.zeros(3)}
    torch.save({"params": state}, place / "official.pth")
    given: dict[str, Any] = {"init": str(place / "official.pth")}
    spec = {**SWINIR, "args": {**SWINIR["args"], "tail": tail}}
    run = prepared(place, f"from-{tail}", **given, model__args__encoder_spec=spec)
    started = run.state.model.encoder
    for key, value in started.named_parameters():
        assert torch.equal(value, state[key]), key
    wider = {**spec, "args": {**spec["args"], "embed_dim": 12}}
    with pytest.raises(
        DataError, match=r"init: .*shape of .*conv_first.weight \(8, 3, 3, 3\)"
    ) as e:
        prepared(place, f"wider-{tail}", **given, model__args__encoder_spec=wider)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match=r"init: .*encoder is swinir"):
        prepared(place, f"other-{tail}", **given)


def test_same_seed_same_weights_other_seed_others(place: Path) -> None:
    sums = [trained(place, f"run{n}", seed=seed)["checksum"] for n, seed in enumerate((0, 0, 1))]
    assert sums[0] == sums[1] != sums[2]


def test_random_states_return(place: Path) -> None:
    run = prepared(place)
    saved = run.state.checkpoint(run.config)
    expected = torch.rand(3), random.random(), np.random.rand()
    run.state.restore(saved, place, 5)
    again = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(expected[0], again[0])
    assert expected[1:] == again[1:]


def losses_of(place: Path, name: str, **changes: Any) -> list[float]:
    trained(place, name, **changes)
    lines = (place / name / "losses.csv").read_text().splitlines()[1:]
    return [float(line.split(",")[2]) for line in lines]


@pytest.mark.usefixtures("bf16")
def test_bf16_stays_near_fp32(place: Path) -> None:
    single, half = (losses_of(place, kind, precision=kind) for kind in ("fp32", "bf16"))
    assert half != single
    assert half == pytest.approx(single, abs=5e-3)


def test_fp16_needs_cuda(place: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs CUDA"):
        prepared(place, precision="fp16")


def test_device_data_is_the_loaders_data(place: Path) -> None:
    expected = losses_of(place, "plain")
    kept = losses_of(place, "kept", device_data=True, num_workers=1)
    assert kept == pytest.approx(expected, abs=1e-6)


def test_device_data_refuses_items_of_different_sizes(place: Path) -> None:
    for name, args, size, words in (
        ("several", {"scale_max": 3}, 4, "differ in size"),
        ("single", {"augment": True}, 1, "20x24 inputs with augment; allowed: square"),
    ):
        wrapper = {"name": "sr-implicit-downsampled", "args": args}
        changes = {"train_dataset__wrapper": wrapper, "train_dataset__batch_size": size}
        with pytest.raises(DataError, match=words):
            train(prepared(place, name, device_data=True, **changes))


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(place: Path) -> None:
    expected = losses_of(place, "plain")
    assert losses_of(place, "compiled", compile=True) == pytest.approx(expected, abs=1e-4)


def test_without_validation_there_is_no_best(place: Path) -> None:
    checkpoint = trained(place, epoch_val=None)
    assert checkpoint["best"] is None
    assert not (place / "run/epoch-best.pth").exists()


def test_learning_rates_by_milestones() -> None:
    config = read_train_config(tiny_config())
    rates = [learning_rate(config, step, 5) for step in range(15)]
    assert rates == [1e-2] * 5 + [5e-3] * 5 + [2.5e-3] * 5


def test_srnos_learning_rates(root: Path) -> None:
    """4e-5 (1 + 9 e/50) up to epoch 50, then 2e-4 (1 + cos(pi (e - 50)/1000)), epoch by epoch."""
    path = root / "configs/train-div2k/train_edsr-baseline-sronet.yaml"
    config = read_train_config(path)
    named = "warmup_step_lr={multiplier: 10, total_epoch: 50}"
    theirs = read_train_config(path, ["lr_schedule=null", named, "optimizer.args.lr=4.e-5"])
    for epoch in (0, 1, 49, 50, 51, 550, 1049):
        rate = 4e-5 * (1 + 9 * epoch / 50)
        if epoch >= 50:
            rate = 2e-4 * (1 + math.cos(math.pi * (epoch - 50) / 1000))
        for step in (0, 249):
            assert learning_rate(config, 250 * epoch + step, 250) == pytest.approx(rate)
            assert learning_rate(theirs, 250 * epoch + step, 250) == pytest.approx(rate)


def test_learning_rates_along_a_cosine() -> None:
    schedule = {"name": "cosine", "warmup": 4, "min_lr": 1e-3}
    config = read_train_config(tiny_config(multi_step_lr=None, lr_schedule=schedule, epoch_max=4))
    rates = [learning_rate(config, step, 6) for step in range(25)]
    assert rates[:4] == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2])
    assert rates[4] == pytest.approx(1e-2)
    assert rates[14] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[24] == pytest.approx(1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_normalise_by_channel() -> None:
    config = read_train_config(tiny_config(data_norm={"inp": {"sub": [0.1, 0.2, 0.3], "div": [2]}}))
    image = torch.ones(1, 3, 2, 2)
    result = normalise(image, config.data_norm.inp, 1)
    assert result[0, :, 0, 0].tolist() == pytest.approx([0.45, 0.4, 0.35])
    colours = normalise(torch.ones(1, 5, 3), config.data_norm.inp, -1)
    assert colours[0, 4].tolist() == pytest.approx([0.45, 0.4, 0.35])
    assert torch.equal(normalise(image, config.data_norm.gt, 1), image)


def test_loss_log_keeps_step_with_the_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    log = LossLog(path, 0)
    for step in range(1, 6):
        log.add(step, 1, 0.1 * step)
    assert path.read_text() == LOSSES_HEADER
    log.flush()
    exact = path.read_text().splitlines()
    assert exact[3] == "3,1,0.30000000000000004"
    with open(path, "a") as file:
        file.write("6,2,0.1")  # the end of a line is missing
    LossLog(path, 3)
    assert path.read_text().splitlines() == exact[:4]


@pytest.mark.parametrize("line", ["²,1,0.5", "1" * 5000 + ",1,0.5", "-1,1,0.5", "3", ",1,2"])
def test_lines_that_are_no_losses_end_the_log(tmp_path: Path, line: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(f"{LOSSES_HEADER}1,1,0.5\n{line}\n2,1,0.5\n")
    LossLog(path, 10)
    assert path.read_text() == f"{LOSSES_HEADER}1,1,0.5\n"


def test_a_reader_that_leaves_does_not_end_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `train_liif.py ... 2>&1 | head -2`."""
    folder = RunFolder(tmp_path)
    reader, writer = os.pipe()
    with open(writer, "w") as closed:
        os.close(reader)
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", closed)
        for message in ("one", "two"):
            folder.log(message)
            say(message)
    log = (tmp_path / "log.txt").read_text()
    assert re.fullmatch(r"([0-9-]{10} [0-9:]{8}) one\n([0-9-]{10} [0-9:]{8}) two\n", log), log


def test_run_names() -> None:
    assert run_name("configs/train_a.yaml", None, None) == "_train_a"
    assert run_name("configs/train_a.yaml", None, "b") == "_train_a_b"
    assert run_name("configs/train_a.yaml", "c", None) == "c"
    for name in ("../x", "/x", ""):
        with pytest.raises(ConfigError, match="--name"):
            run_name("a.yaml", name, None)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file/run", "n" * 300):
        with pytest.raises(DataError, match="no folder to write to"):
            RunFolder(tmp_path / name)


def fail_to_lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As on some network file systems."""

    def lockf(*_: Any) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "lockf", lockf)


@pytest.mark.parametrize("name", ["ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOSYS", "EIO"])
def test_a_file_system_without_locks_costs_a_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fail_to_lock(monkeypatch, name)
    train(prepared(place, epoch_max=1))
    reason = os.strerror(getattr(errno, name))
    assert capsys.readouterr().err == (
        f"{place}/run: can't be locked ({reason}), so that a second run in this folder would not "
        "be noticed; start one only\n"
    )
    assert load_checkpoint(place / "run/epoch-last.pth")["epoch"] == 1


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP"])
def test_a_file_system_that_flushes_nothing_costs_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """No checkpoint, no log, no curve and no line: neither files nor folders are flushed."""
    code = getattr(errno, name)

    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    train(prepared(place, epoch_max=2))
    assert capsys.readouterr().err == ""
    assert load_checkpoint(place / "run/epoch-last.pth")["epoch"] == 2
    assert len((place / "run/losses.csv").read_text().splitlines()) == 11
    assert curves(place / "run/tensorboard")["train/loss"] == [1, 2]


def test_a_flush_that_fails_for_another_reason_ends_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(place)

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match=r"can't be written \(Input/output error\)"):
        train(run)


@pytest.mark.parametrize("name", ["EACCES", "EAGAIN"])
def test_only_two_errors_of_the_lock_mean_in_use(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail_to_lock(monkeypatch, name)
    (place / "run").mkdir()
    (place / "run/.lock").write_text("process 5 on here")
    with pytest.raises(DataError, match="run: in use by process 5 on here; one run per folder"):
        prepared(place)
    assert (place / "run/.lock").read_text() == "process 5 on here"


def test_a_start_that_fails_leaves_no_folder(place: Path) -> None:
    missing = {"train_dataset__dataset__args__root_path": "nowhere"}
    with pytest.raises(DataError, match="nowhere"):
        prepared(place, "save/deep/run", **missing)
    assert not (place / "save").exists()
    (place / "save/deep").mkdir(parents=True)
    with pytest.raises(DataError, match="nowhere"):
        prepared(place, "save/deep/run", **missing)
    assert [*(place / "save").rglob("*")] == [place / "save/deep"]
    trained(place, "save/deep/run", epoch_max=1)
    before = contents(place / "save")
    with pytest.raises(DataError, match="nowhere"):
        prepared(place, "save/deep/run", Options(overwrite=True), **missing)
    assert contents(place / "save") == before


@pytest.mark.parametrize("part", ["train_dataset", "val_dataset"])
def test_data_without_items_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setitem(datasets.datasets.datasets_registry.makers, "empty", list)
    with pytest.raises(DataError, match=rf"^{part}: 'empty' of 0 items given; allowed: 1 or more"):
        prepared(place, **{f"{part}__dataset": {"name": "empty"}})
    assert not (place / "run").exists()


def test_a_model_that_no_checkpoint_can_hold_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.edsr.EDSR, "get_extra_state", lambda self: {"k": 1}, raising=False)
    with pytest.raises(ConfigError, match=r"^model.name: 'liif' given, .* encoder._extra_state; "):
        prepared(place)
    assert not (place / "run").exists()


def events(folder: Path) -> Iterator[Event]:
    """The records of an event file: length, its checksum, the event, its checksum."""
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[16 + length :]


def curves(folder: Path) -> dict[str, list[int]]:
    """The steps of each curve as TensorBoard shows them: a session hides what it makes again."""
    found: dict[str, list[int]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = {name: [s for s in steps if s < event.step] for name, steps in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
            assert math.isfinite(value.simple_value)
    return found


def test_a_fresh_start_keeps_a_link_to_a_shared_tensorboard_folder(tmp_path: Path) -> None:
    shared, run = tmp_path / "shared", tmp_path / "run"
    shared.mkdir()
    run.mkdir()
    (shared / "of-others").touch()
    (run / "tensorboard").symlink_to(shared)
    (run / "epoch-last.pth").touch()
    RunFolder(run).clear(diagnoses=True)
    assert [*(run / "tensorboard").iterdir()] == [run / "tensorboard/of-others"]
    assert not (run / "epoch-last.pth").exists()


def test_tensorboard_holds_the_curves(place: Path) -> None:
    trained(place)
    found = curves(place / "run/tensorboard")
    names = ["train/loss", "train/lr", "val/psnr", "images_per_second", "waiting"]
    assert all(found[name] == [1, 2, 3] for name in [*names, "peak_memory_gib"])


@pytest.mark.parametrize(
    "fault",
    [
        ("at_rename", "epoch-last.pth", 2),  # the second epoch's points are there, not it itself
        ("after_losses", 3),
        ("in_validation", 3, 1),
    ],
    ids=lambda fault: fault[0],
)
def test_a_kill_leaves_neither_gaps_nor_doubles_in_the_curves(
    warm: WarmRuns, folder: Path, fault: tuple[Any, ...]
) -> None:
    code, text = warm.run(folder, fault=fault)
    assert code == -signal.SIGKILL, text
    finish(warm, folder)
    found = curves(folder / RUN / "tensorboard")
    assert found["train/loss"] == found["val/psnr"] == [1, 2, 3]


def test_a_board_that_cannot_be_written_costs_the_curves_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    writer = TensorBoardWriter(tmp_path / "file" / "tensorboard", 1)
    writer.scalars(1, {"loss": 1.0})
    assert "going on without" in capsys.readouterr().err


def test_a_disk_that_fills_costs_the_curves_alone(warm: WarmRuns, folder: Path) -> None:
    """From the second epoch on; the run ends as if nothing had been."""
    code, text = warm.run(folder, fault=("full_tensorboard",))
    assert code == 0, text
    line = "TensorBoard: can't be written (No space left on device); going on without"
    assert text.splitlines().count(line) == 1
    assert load_checkpoint(folder / RUN / "epoch-last.pth")["epoch"] == 3


def test_a_panel_that_fails_costs_the_panel_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with an encoder for crops of one size; the epoch is saved, and no draw is lost."""
    expected = trained(place, "whole")

    def fail(*_: Any, **__: Any) -> None:
        torch.rand(3)
        assert load_checkpoint(place / "run/epoch-last.pth")["epoch"] == run.state.epoch
        raise RuntimeError("The size of tensor a\n(42) must match")

    monkeypatch.setattr(loop, "training_panel", fail)
    run = prepared(place)
    train(run)
    line = "no panel: RuntimeError: The size of tensor a (42) must match\n"
    assert capsys.readouterr().err == line
    assert load_checkpoint(place / "run/epoch-last.pth")["checksum"] == expected["checksum"]


def test_waiting_is_told_from_working() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    throughput = Throughput()
    for _ in throughput.timed(slow()):
        time.sleep(0.05)
        throughput.images += 2
    figures = throughput.scalars()
    assert 0.3 < figures["waiting"] < 0.7
    assert 5 < figures["images_per_second"] < 20.1


def test_many_messages_are_counted(place: Path) -> None:
    run = prepared(place)
    for count, messages in ((2, "abb"), (5, "abcde")):
        log_replaced(run, 1, "training", count, messages)
    *_, few, many = (place / "run/log.txt").read_text().splitlines()
    assert few.split(" ", 2)[2] == "epoch 1: 2 training items replaced for broken photographs: a; b"
    assert many.endswith("1: 5 training items replaced for broken photographs: a; b; c; and 2 more")


@pytest.fixture
def full_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on CUDA in fp32 instead of TF32, to be compared with a CPU's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.cuda
@pytest.mark.usefixtures("full_fp32")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2), ("fp16", 2e-2)]
)
def test_cuda_gives_the_losses_of_the_cpu(place: Path, precision: str, tolerance: float) -> None:
    expected = losses_of(place, "cpu")
    losses = losses_of(place, "cuda", device=CUDA, precision=precision, num_workers=1)
    assert len(losses) == 15
    assert all(math.isfinite(loss) for loss in losses)
    assert losses == pytest.approx(expected, abs=tolerance)


@pytest.mark.cuda
@pytest.mark.usefixtures("full_fp32")
def test_cuda_trains_from_data_kept_there(place: Path) -> None:
    expected = losses_of(place, "cpu")
    losses = losses_of(place, "cuda", device=CUDA, device_data=True, num_workers=1)
    assert losses == pytest.approx(expected, abs=5e-3)


@pytest.mark.cuda
def test_cuda_resumes_the_scaler(place: Path) -> None:
    """After an epoch it has counted steps without overflow, or has lowered its scale."""
    whole = losses_of(place, "whole", device=CUDA, precision="fp16")
    saved = trained(place, "parts", device=CUDA, precision="fp16", epoch_max=1)["scaler"]
    assert (
        saved != prepared(place, "fresh", device=CUDA, precision="fp16").state.scaler.state_dict()
    )
    run = prepared(place, "parts", Options(resume="auto"), device=CUDA, precision="fp16")
    assert run.state.scaler.is_enabled()
    assert run.state.scaler.state_dict() == saved
    train(run)
    lines = (place / "parts/losses.csv").read_text().splitlines()[1:]
    assert [float(line.split(",")[2]) for line in lines] == pytest.approx(whole, abs=2e-2)


def test_the_loader_gives_no_batch_beyond_the_epoch(place: Path) -> None:
    run = prepared(place)
    batches = Batches(18, 4, seed=0, training=True)
    drawn = Drawn(run.train_data.wrapper, seed=0, stream=0, on_bad_image="stop")
    batches.start(0, 5)
    assert list(Loader(drawn, batches, 0)) == []


@pytest.mark.parametrize("save_minutes", [1e-4, 10])
def test_weights_that_are_not_finite_never_become_a_checkpoint(
    place: Path, save_minutes: float
) -> None:
    """The step's loss and gradient are finite; what the step makes of the weights is not."""
    trained(place, epoch_max=1)
    before = (place / "run/epoch-last.pth").read_bytes()
    run = resumed(place, epoch_max=2, save_minutes=save_minutes)
    step = run.state.optimizer.step

    def overflow(*args: Any) -> None:
        step(*args)
        if run.state.step == (5 if save_minutes < 1 else 9):
            with torch.no_grad():
                next(run.model.parameters()).flatten()[0] = torch.inf

    run.state.optimizer.step = overflow  # type: ignore[method-assign]
    number = 6 if save_minutes < 1 else 10
    with pytest.raises(DataError, match=rf"^step {number}: weights are not finite \(model/"):
        train(run)
    assert (place / "run/epoch-last.pth").read_bytes() == before
    diagnosis = load_checkpoint(place / f"run/diagnosis-step-{number}.pth")
    assert diagnosis["diagnosis"]["lr"] == 0.005
    assert len((place / "run/losses.csv").read_text().splitlines()) == number + 1


def test_a_mask_of_infinity_is_no_broken_weight(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finite at the start must stay so, buffers too: the statistics of a batch norm."""

    class Masked(models.edsr.EDSR):
        def __init__(self) -> None:
            super().__init__(n_resblocks=1, n_feats=4, no_upsampling=True)
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
            self.register_buffer("running_mean", torch.zeros(4))

    monkeypatch.setitem(models.models.models_registry.makers, "masked", Masked)
    masked = {"model__args__encoder_spec": {"name": "masked"}}
    trained(place, epoch_max=1, **masked)
    run = resumed(place, epoch_max=2, **masked)
    train(run)
    assert load_checkpoint(place / "run/epoch-last.pth")["epoch"] == 2
    run.state.model.get_buffer("encoder.running_mean")[1] = torch.nan
    with pytest.raises(DataError, match=r"not finite \(model/encoder.running_mean, one of 1\)"):
        save(run)


def test_what_was_replaced_before_an_interruption_is_still_reported(place: Path) -> None:
    """All replacements fall before the stop, so that the second session meets none itself."""
    run = prepared(place, epoch_max=1, on_bad_image="skip")
    run.state.skipped, run.state.broken = 2, {"pictures/x.png: damaged": None}
    backward_steps = run.state.optimizer.step

    def stop(*args: Any) -> None:
        backward_steps(*args)
        run.stop.signum = signal.SIGTERM

    run.state.optimizer.step = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train(run)
    train(resumed(place, epoch_max=1, on_bad_image="skip"))
    expected = (
        "epoch 1: 2 training items replaced for broken photographs: pictures/x.png: damaged\n"
    )
    assert expected in (place / "run/log.txt").read_text()
    assert load_checkpoint(place / "run/epoch-last.pth")["broken"] == []


def test_broken_validation_pictures_are_reported_as_such(place: Path) -> None:
    make_pictures(place / "other")
    (place / "other/2.png").write_bytes(b"no picture")
    changes = {"val_dataset__dataset__args__root_path": "other", "on_bad_image": "skip"}
    trained(place, epoch_max=1, **changes)
    log = (place / "run/log.txt").read_text()
    assert "epoch 1: 1 validation items replaced for broken photographs: other/2.png: " in log
    assert "training items replaced" not in log


def test_a_position_that_no_run_can_be_at_is_refused(place: Path) -> None:
    run = prepared(place)
    saved = run.state.checkpoint(run.config)
    for position, items in ((99, 0), (3, 2), (1, 0)):
        crafted = {**saved, "position": position, "items": items}
        with pytest.raises(DataError, match=f"its position is {position} after {items} items"):
            run.state.restore(crafted, place, 5)
    run.state.restore({**saved, "position": 5, "items": 18}, place, 5)
    assert (run.state.position, run.state.items) == (5, 18)

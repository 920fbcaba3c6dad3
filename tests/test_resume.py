"""Runs that are killed, stopped, starved of disk or fed nonsense, and what they leave behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets.image_folder import ImageFolder
from engine.config import config_dict, read_train_config
from engine.train.resume import find_differences, fingerprint
from engine.weights.checkpoint import load_checkpoint
from tests.runs import (
    RUN,
    SAVE,
    WarmRuns,
    finish,
    outcome,
    tiny_config,
    wait_for,
    write_config,
)


def whole(path: Path) -> bool:
    """Whether there is a checkpoint; DataError where there is one that is not whole."""
    return path.exists() and bool(load_checkpoint(path))


# What SIGKILL can come in the middle of; every one is tried with SIGTERM or SIGINT below, too.
KILLS = [
    ("at_step", 1),
    ("at_step", 2),
    ("at_step", 7),
    ("at_step", 15),
    ("at_rename", "epoch-last.pth", 1),
    ("at_rename", "epoch-last.pth", 4),
    ("at_rename", "epoch-best.pth", 1),
    ("at_rename", "epoch-2.pth", 1),
    ("in_write", "epoch-last.pth", 1),
    ("in_write", "epoch-last.pth", 9),
    ("in_write", "epoch-best.pth", 2),
    ("in_validation", 1, 1),
    ("in_validation", 2, 3),
    ("in_validation", 3, 2),
    ("after_losses", 1),
    ("after_losses", 8),
]
QUICK = {KILLS[5], KILLS[9], KILLS[12]}


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        pytest.param(number, fault, marks=[] if fault in QUICK else pytest.mark.slow)
        for number, fault in enumerate(KILLS)
    ],
    ids=["-".join(map(str, fault)) for fault in KILLS],
)
def test_killed_at_a_chosen_moment(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any], number: int, fault: tuple[Any, ...]
) -> None:
    code, text = warm.run(folder, *SAVE, f"num_workers={number % 3}", fault=fault)
    assert code == -signal.SIGKILL, text
    whole(folder / RUN / "epoch-last.pth")
    finish(warm, folder, workers=(number + 1) % 3)
    assert outcome(folder / RUN) == undisturbed


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(warm: WarmRuns, folder: Path, root: Path) -> None:
    """The command itself, killed in four sessions, then left to end.

    It has more to do than can be done in the time that all four together are given.
    """
    epochs = "epoch_max=12"
    assert warm.run(folder, "--set", epochs)[0] == 0
    expected = outcome(folder / RUN)
    shutil.rmtree(folder / RUN)
    rng = random.Random(11)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for session in range(5):
        command = [sys.executable, str(root / "train_liif.py"), "--config", "tiny.yaml"]
        command += ["--resume", "auto", *SAVE, epochs, f"num_workers={session % 3}"]
        log = folder / RUN / "log.txt"
        before = log.read_text() if log.exists() else ""
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if session < 4:
            wait_for(lambda log=log, before=before: log.exists() and log.read_text() != before)
            time.sleep(rng.uniform(0, 0.25))
            process.kill()
        output = process.communicate(timeout=240)[0].decode()
        assert process.returncode == (-signal.SIGKILL if session < 4 else 0), output
    assert outcome(folder / RUN) == expected


SIGNALS = [
    ("at_step", 3, "SIGTERM"),
    ("at_step", 9, "SIGINT"),
    ("in_validation", 1, 2, "SIGTERM"),
    ("in_validation", 2, 1, "SIGINT"),
    ("in_write", "epoch-last.pth", 2, "SIGTERM"),
    ("in_write", "epoch-best.pth", 1, "SIGINT"),
    ("at_rename", "epoch-last.pth", 2, "SIGINT"),
    ("at_rename", "epoch-2.pth", 1, "SIGTERM"),
]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(f, marks=[] if n in (0, 3, 4) else pytest.mark.slow)
        for n, f in enumerate(SIGNALS)
    ],
    ids=["-".join(map(str, fault)) for fault in SIGNALS],
)
def test_asked_to_stop(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any], fault: tuple[Any, ...]
) -> None:
    code, text = warm.run(folder, "--set", "num_workers=1", fault=fault)
    name = str(fault[-1])
    assert code == 128 + getattr(signal, name), text
    last = text.splitlines()[-1]
    assert last == f"{name}: saved {RUN}/epoch-last.pth; go on with --resume auto"
    assert "Traceback" not in text
    assert whole(folder / RUN / "epoch-last.pth")
    finish(warm, folder)
    assert outcome(folder / RUN) == undisturbed


def test_a_second_signal_stops_at_once(warm: WarmRuns, folder: Path) -> None:
    """The first comes in a step; the second in the save that it asked for."""
    pid = warm.start(folder, fault=("stuck_after_signal",))
    output = folder / "output.txt"
    wait_for(lambda: output.exists() and "a second signal" in output.read_text())
    os.kill(pid, signal.SIGTERM)
    assert warm.wait(pid, seconds=10) == -signal.SIGTERM
    assert not (folder / RUN / "epoch-last.pth").exists()


def test_differences_are_refused_by_name(warm: WarmRuns, folder: Path) -> None:
    assert warm.run(folder, "--set", "epoch_max=1")[0] == 0
    code, text = warm.run(
        folder, "--resume", "auto", "--set",
        "optimizer.args.lr=0.5", "model.args.local_ensemble=false", "seed=4",
        "train_dataset.wrapper.args.sample_q=9", "multi_step_lr.gamma=0.1", "epoch_max=2",
    )  # fmt: skip
    assert code == 2
    for part in (
        "optimizer.args.lr: 0.5 now, 0.01 then",
        "model.args.local_ensemble: False now, not given then",
        "seed: 4 now, 0 then",
        "train_dataset.wrapper.args.sample_q: 9 now, 16 then",
        "multi_step_lr.gamma: 0.1 now, 0.5 then",
        "--resume-anyway",
    ):
        assert part in text, text
    assert "epoch_max:" not in text
    code, text = warm.run(
        folder, "--resume", "auto", "--resume-anyway", "--set", "optimizer.args.lr=0.5",
        "epoch_max=2",
    )  # fmt: skip
    assert code == 0, text
    assert outcome(folder / RUN)["rates"] == [0.25]


def test_differences_inside_lists_are_told_alone() -> None:
    part = "train_dataset__wrapper__args__degrade"
    steps = [{"name": "blur", "sigma": 2}, {"name": "jpeg", "quality": [30, 95]}]
    then = read_train_config(tiny_config(**{part: steps}))
    now = read_train_config(tiny_config(**{part: [steps[0], {"name": "jpeg", "quality": 50}]}))
    expected = [f"{part.replace('__', '.')}.1.quality: 50 now, [30, 95] then"]
    assert list(find_differences({"config": config_dict(then)}, now, {})) == expected


def test_what_is_no_difference(warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]) -> None:
    """A moved data folder, more epochs, other intervals and workers."""
    assert warm.run(folder, "--set", "epoch_max=1")[0] == 0
    (folder / "pictures").rename(folder / "moved")
    places = [f"{part}_dataset.dataset.args.root_path=moved" for part in ("train", "val")]
    settings = ["epoch_max=3", "num_workers=1", "save_minutes=3", "epoch_save=1", *places]
    code, text = warm.run(folder, "--resume", "auto", "--set", *settings)
    assert code == 0, text
    assert outcome(folder / RUN) == undisturbed


def test_other_files_are_a_difference(warm: WarmRuns, folder: Path) -> None:
    assert warm.run(folder, "--set", "epoch_max=1")[0] == 0
    Image.new("RGB", (24, 24)).save(folder / "pictures/2.png")
    code, text = warm.run(folder, "--resume", "auto")
    assert code == 2
    assert "train_dataset: other files than then" in text


def test_epochs_matter_to_a_cosine(warm: WarmRuns, folder: Path) -> None:
    cosine = ("--set", "multi_step_lr=null", "lr_schedule={name: cosine, warmup: 3}")
    assert warm.run(folder, *cosine, "epoch_max=1")[0] == 0
    code, text = warm.run(folder, "--resume", "auto", *cosine, "epoch_max=2")
    assert code == 2
    assert "epoch_max: 2 now, 1 then, and the learning rate is lowest at that" in text
    assert text.count("now,") == 1, "nothing else is different"
    assert warm.run(folder, "--resume", "auto", "--resume-anyway", *cosine, "epoch_max=2")[0] == 0


def test_resume_from_a_file(warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]) -> None:
    """By the option back to an earlier epoch; by the key into another folder."""
    assert warm.run(folder)[0] == 0
    code, text = warm.run(folder, "--resume", str(RUN / "epoch-2.pth"))
    assert code == 0, text
    assert "2 epochs finished" in text
    assert outcome(folder / RUN) == undisturbed

    code, text = warm.run(folder, "--name", "other", "--set", f"resume={RUN}/epoch-2.pth")
    assert code == 0, text
    other = outcome(folder / "save/other")
    assert other["checksum"] == undisturbed["checksum"]
    assert [line.split(",")[0] for line in other["losses"].split()[1:]] == list("12345") or (
        other["losses"].splitlines()[1].startswith("11,3,")
    )


def test_a_damaged_last_checkpoint_gives_way_to_an_older_one(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]
) -> None:
    assert warm.run(folder, "--set", "epoch_max=2")[0] == 0
    last = folder / RUN / "epoch-last.pth"
    last.write_bytes(last.read_bytes()[:5000])
    (folder / RUN / "epoch-best.pth").unlink()
    text = finish(warm, folder)
    assert f"passed over: {RUN}/epoch-last.pth: damaged (" in text
    assert "going on from save/_tiny/epoch-2.pth" in text
    assert outcome(folder / RUN) == undisturbed
    # In a finished run it is made again from the one that got furthest.
    best = load_checkpoint(folder / RUN / "epoch-best.pth")
    last.write_bytes(b"PK")
    code, text = warm.run(folder, "--resume", "auto", "--set", f"epoch_max={best['epoch']}")
    assert code == 0, text
    assert f"passed over: {RUN}/epoch-last.pth: " in text
    assert "Traceback" not in text
    again = load_checkpoint(last)
    assert again["epoch"] >= best["epoch"]
    assert again["epoch"] == max(best["epoch"], 2)
    for path in (folder / RUN).glob("epoch-*.pth"):
        path.write_bytes(b"")
    code, text = warm.run(folder, "--resume", "auto")
    assert code == 1
    assert text.endswith(f"no checkpoint of {RUN} is whole\n")


def test_a_published_checkpoint_can_be_resumed(warm: WarmRuns, folder: Path) -> None:
    """One with the published keys alone: the next epoch begins, at its learning rate."""
    import torch

    assert warm.run(folder, "--set", "epoch_max=2", "ema_decay=null")[0] == 0
    full = load_checkpoint(folder / RUN / "epoch-last.pth")
    published = {key: full[key] for key in ("model", "optimizer", "epoch")}
    torch.save(published, folder / "published.pth")
    code, text = warm.run(folder, "--name", "on", "--resume", "published.pth")
    assert code == 0, text
    on = load_checkpoint(folder / "save/on/epoch-last.pth")
    assert (on["epoch"], on["step"]) == (3, 15)
    assert on["optimizer"]["sd"]["param_groups"][0]["lr"] == 0.0025


def test_a_checkpoint_of_another_model(warm: WarmRuns, folder: Path) -> None:
    assert warm.run(folder, "--set", "epoch_max=1")[0] == 0
    hidden = "model.args.imnet_spec.args.hidden_list=[9]"
    code, text = warm.run(folder, "--resume", "auto", "--resume-anyway", "--set", hidden)
    assert code == 1
    last = text.splitlines()[-1]
    assert last.startswith(f"error: {RUN}/epoch-last.pth: ")
    assert "imnet" in last
    assert "Traceback" not in text


def test_overwriting_with_a_checkpoint_from_elsewhere_leaves_nothing_of_the_old_run(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]
) -> None:
    """By the option and by the key; only what the new run makes is there afterwards."""
    assert warm.run(folder, "--name", "one", "--set", "epoch_max=2")[0] == 0
    start = "save/one/epoch-2.pth"
    assert warm.run(folder, "--set", "seed=5")[0] == 0
    (folder / RUN / "diagnosis-step-3.pth").write_bytes(b"old")
    arguments = ("--overwrite", "--set", f"resume={start}")
    for chosen in (("--overwrite", "--resume", start), arguments):
        code, text = warm.run(folder, *chosen)
        assert code == 0, text
        names = {path.name for path in (folder / RUN).glob("*.pth")}
        assert names <= {"epoch-last.pth", "epoch-best.pth"}
        losses = (folder / RUN / "losses.csv").read_text().splitlines()
        assert losses[1:] == undisturbed["losses"].splitlines()[11:]
        assert len((folder / RUN / "log.txt").read_text().splitlines()) == 5


def test_going_back_is_not_forgotten_by_a_kill(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]
) -> None:
    """`--resume FILE` to an earlier epoch, killed at its first step, then `--resume auto`."""
    assert warm.run(folder)[0] == 0
    code, _ = warm.run(folder, "--resume", str(RUN / "epoch-2.pth"), fault=("at_step", 1))
    assert code == -signal.SIGKILL
    text = finish(warm, folder)
    assert "2 epochs finished" in text
    assert outcome(folder / RUN) == undisturbed


def test_diagnoses_outlive_a_fresh_start(warm: WarmRuns, folder: Path) -> None:
    """What a run that failed before its first checkpoint has left goes with --overwrite only."""
    code, text = warm.run(folder, fault=("non_finite", 2, "loss"))
    assert code == 1, text
    diagnosis = folder / RUN / "diagnosis-step-2.pth"
    assert warm.run(folder, "--resume", "auto", "--set", "epoch_max=1")[0] == 0
    assert diagnosis.exists()
    assert warm.run(folder, "--overwrite", "--set", "epoch_max=1")[0] == 0
    assert not diagnosis.exists()


def test_the_same_name_and_size_with_other_contents_is_a_difference(tmp_path: Path) -> None:
    """Also an earlier version's fingerprint, of names and sizes alone, is still understood."""
    write_config(tmp_path)
    config = read_train_config(tiny_config())
    dataset = ImageFolder(str(tmp_path / "pictures"))
    before = {"train_dataset": fingerprint(dataset)}
    checkpoint = {"config": config_dict(config), "data": before}
    assert not list(find_differences(checkpoint, config, before))
    path = tmp_path / "pictures/3.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    after = {"train_dataset": fingerprint(dataset)}
    expected = ["train_dataset: other files than then"]
    assert list(find_differences(checkpoint, config, after)) == expected
    old = {"train_dataset": before["train_dataset"].split(", contents ")[0]}
    checkpoint["data"] = old
    assert len(old["train_dataset"]) == len("6 items, 6 files, ") + 16
    assert not list(find_differences(checkpoint, config, after))
    path.write_bytes(content + b"1")
    longer = {"train_dataset": fingerprint(dataset)}
    assert list(find_differences(checkpoint, config, longer)) == expected

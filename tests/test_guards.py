"""Runs that are starved of disk, fed nonsense or started twice, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.weights.checkpoint import load_checkpoint
from tests.runs import RUN, SAVE, WarmRuns, finish, outcome, wait_for


def test_a_full_disk_leaves_the_last_checkpoint(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]
) -> None:
    code, text = warm.run(folder, "--set", "epoch_max=1")
    assert code == 0, text
    before = (folder / RUN / "epoch-last.pth").read_bytes()
    limit = len(before) // 2
    code, text = warm.run(folder, "--resume", "auto", fault=("file_size_limit", limit))
    assert code == 1
    assert text.splitlines()[-1] == (
        f"error: {RUN}/epoch-best.pth: can't be written (File too large); the one before is whole"
    )
    assert "Traceback" not in text
    assert (folder / RUN / "epoch-last.pth").read_bytes() == before
    finish(warm, folder)
    assert outcome(folder / RUN) == undisturbed


@pytest.mark.slow
def test_a_full_file_system(warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]) -> None:
    """Everything a run writes, on a file system that has no room left."""
    (folder / "save").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder / "save")]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs rights that this user does not have")
    try:
        code, text = warm.run(folder, "--set", "epoch_max=1")
        assert code == 0, text
        before = (folder / RUN / "epoch-last.pth").read_bytes()
        filler = folder / "save" / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        code, text = warm.run(folder, "--resume", "auto")
        assert code == 1
        assert text.splitlines()[-1].endswith("(No space left on device); the one before is whole")
        assert "Traceback" not in text
        assert (folder / RUN / "epoch-last.pth").read_bytes() == before
        filler.unlink()
        finish(warm, folder)
        assert outcome(folder / RUN) == undisturbed
    finally:
        subprocess.run(["umount", str(folder / "save")], check=True)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_not_finite(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any], what: str
) -> None:
    code, text = warm.run(folder, *SAVE, fault=("non_finite", 7, what))
    assert code == 1
    last = text.splitlines()[-1]
    assert last.startswith("error: step 7: loss ")
    assert "learning rate 0.005" in last
    assert last.count("pictures/") == 3  # one of them is in the batch twice
    assert "Traceback" not in text
    before = load_checkpoint(folder / RUN / "epoch-last.pth")
    diagnosis = load_checkpoint(folder / RUN / "diagnosis-step-7.pth")
    assert before["step"] == 6
    weights = diagnosis["model"]["sd"]
    assert all(value.equal(weights[name]) for name, value in before["model"]["sd"].items())
    found = diagnosis["diagnosis"]
    assert found["lr"] == 0.005
    assert len(found["batch"][0]["files"]) == 4
    assert found["batch"][0]["inp"].shape == (4, 3, 5, 5)
    finish(warm, folder)
    assert outcome(folder / RUN) == undisturbed


def test_a_broken_picture_stops_the_run(warm: WarmRuns, folder: Path) -> None:
    (folder / "pictures/3.png").write_bytes(b"no picture")
    code, text = warm.run(folder, "--set", "num_workers=1")
    assert code == 1
    assert text.splitlines()[-1].startswith("error: ")
    assert "3.png" in text.splitlines()[-1]
    assert "Traceback" not in text


def test_a_broken_picture_can_be_skipped(warm: WarmRuns, folder: Path) -> None:
    """It is replaced by the same other ones, in one sitting or several, with workers or without."""
    (folder / "pictures/3.png").write_bytes(b"no picture")
    skip = ("--set", "on_bad_image=skip", "epoch_max=2")
    code, text = warm.run(folder, *skip, "num_workers=2")
    assert code == 0, text
    assert "epoch 2: 3 training items replaced for broken photographs: pictures/3.png: " in text
    assert "epoch 2: 1 validation items replaced for broken photographs: pictures/3.png: " in text
    first = outcome(folder / RUN)
    shutil.rmtree(folder / RUN)
    code, text = warm.run(folder, *skip, fault=("at_step", 8, "SIGTERM"))
    assert code == 143
    code, text = warm.run(folder, *skip, "num_workers=1", "--resume", "auto")
    assert code == 0, text
    assert "epoch 2: 3 training items replaced for broken photographs" in text
    assert outcome(folder / RUN) == first


def test_skipping_ends_where_all_pictures_are_broken(warm: WarmRuns, folder: Path) -> None:
    for path in (folder / "pictures").iterdir():
        path.write_bytes(b"no picture")
    code, text = warm.run(folder, "--set", "on_bad_image=skip")
    assert code == 1
    assert text.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in text


def test_starting_over_has_to_be_asked_for(
    warm: WarmRuns, folder: Path, undisturbed: dict[str, Any]
) -> None:
    assert warm.run(folder)[0] == 0
    (folder / RUN / "notes.txt").write_text("mine")
    before = (folder / RUN / "epoch-last.pth").read_bytes()
    code, text = warm.run(folder)
    assert code == 2
    assert text.splitlines()[-1].startswith(f"error: {RUN}: holds a run already")
    assert (folder / RUN / "epoch-last.pth").read_bytes() == before

    code, text = warm.run(folder, "--resume", "auto")
    assert code == 0
    assert text == f"{RUN}/epoch-last.pth: finished, 3 epochs of 3\n"

    # A mistake found before the first step costs nothing.
    code, text = warm.run(folder, "--overwrite", "--set", "train_dataset.dataset.args.root_path=x")
    assert code == 1
    assert (folder / RUN / "epoch-last.pth").read_bytes() == before

    code, text = warm.run(folder, "--overwrite", "--set", "seed=1", "epoch_max=1")
    assert code == 0, text
    assert outcome(folder / RUN)["losses"] != undisturbed["losses"]
    assert not (folder / RUN / "epoch-2.pth").exists()
    assert (folder / RUN / "notes.txt").read_text() == "mine"


def test_one_run_per_folder(warm: WarmRuns, folder: Path) -> None:
    """A second one is refused; the lock of one that was killed is free at once."""
    pid = warm.start(folder, "--set", "epoch_max=1000", "num_workers=2", output="first.txt")
    wait_for(lambda: (folder / RUN / "epoch-last.pth").exists())
    for arguments in ((), ("--resume", "auto"), ("--overwrite",)):
        code, text = warm.run(folder, *arguments)
        assert code == 1
        assert text.startswith(f"error: {RUN}: in use by process {pid} on ")
    os.kill(pid, signal.SIGKILL)
    assert warm.wait(pid) == -signal.SIGKILL
    code, text = warm.run(folder, "--resume", "auto", "--set", "epoch_max=1")
    assert code == 0, text


def test_a_killed_loader_process_ends_in_a_line_and_a_checkpoint(
    warm: WarmRuns, folder: Path
) -> None:
    """It has made at most the batches that were asked for ahead; the next one is missed."""
    repeat = "train_dataset.dataset.args.repeat=12"
    code, text = warm.run(
        folder, "--set", "num_workers=1", repeat, "epoch_max=1", fault=("lost_worker", 3)
    )
    assert code == 1
    assert "Traceback" not in text
    last = text.splitlines()[-1]
    assert last.startswith("error: a loader process was killed (process ")
    assert last.endswith(f"; saved {RUN}/epoch-last.pth; go on with --resume auto")
    assert 3 <= load_checkpoint(folder / RUN / "epoch-last.pth")["position"] < 18
    code, text = warm.run(folder, "--resume", "auto", "--set", repeat, "epoch_max=1")
    assert code == 0, text
    shutil.copytree(folder / RUN, folder / "killed")
    assert warm.run(folder, "--overwrite", "--set", repeat, "epoch_max=1")[0] == 0
    assert outcome(folder / "killed") == outcome(folder / RUN)

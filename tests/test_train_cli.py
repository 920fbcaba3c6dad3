"""The command `train_liif.py`: its options, its output, and what it says to bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.weights.checkpoint import load_checkpoint
from tests.runs import RUN, WarmRuns, tiny_config


def test_the_command_itself(root: Path, folder: Path) -> None:
    """As a user runs it, in a process of its own; what it leaves, and what it prints."""
    ended = subprocess.run(
        [sys.executable, str(root / "train_liif.py"), "--config", "tiny.yaml", "--tag", "x"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(" ", 2)[2] for line in ended.stdout.splitlines()]  # after date and time
    assert lines[0] == "save/_tiny_x: liif with 935 weights, fp32 on cpu, 1 process(es)"
    assert lines[-1].startswith("epoch 3/3, train: loss=0.")
    for part in ("val: psnr=", "lr=2.50e-03", "images/s", "% waiting for data", "peak memory"):
        assert part in lines[-1]
    assert (folder / "save/_tiny_x/log.txt").read_text() == ended.stdout
    assert ended.stderr == ""  # no progress bar where nobody looks


WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(("fcntl", "resource")))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_system_without_locks(root: Path, folder: Path) -> None:
    """One that lacks POSIX's modules: training runs, and says what it can't promise."""
    command = [sys.executable, "-c", WITHOUT, str(root / "train_liif.py"), "--config", "tiny.yaml"]
    ended = subprocess.run(
        [*command, "--set", "epoch_max=1", "train_dataset.dataset.args.cache=bin"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    about_lock, *others = ended.stderr.splitlines()
    assert about_lock == (
        "save/_tiny: can't be locked (this system has no locks of files), so that a second run in "
        "this folder would not be noticed; start one only"
    )
    assert all(line.startswith("cache: ") for line in others), others
    last = ended.stdout.splitlines()[-1]
    assert re.match(r"[0-9-]{10} [0-9:]{8} epoch 1/1, train: loss=", last), last
    assert "peak memory" not in last
    assert load_checkpoint(folder / RUN / "epoch-last.pth")["epoch"] == 1


def test_scripts_that_do_not_train_do_not_load_tensorboard(root: Path) -> None:
    code = (
        "import sys, demo, test, hubconf, engine.evaluate.suite; "
        "sys.exit('tensorboardX' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=240).returncode == 0


def test_names_and_overrides(warm: WarmRuns, folder: Path) -> None:
    code, text = warm.run(
        folder,
        "--name",
        "mine",
        "--set",
        "epoch_max=1",
        "--set",
        "seed=3",
        "optimizer.args.lr=2e-3",
    )
    assert code == 0, text
    config = yaml.safe_load((folder / "save/mine/config.yaml").read_text())
    assert (config["epoch_max"], config["seed"], config["optimizer"]["args"]["lr"]) == (1, 3, 2e-3)
    assert config["train_dataset"]["wrapper"]["args"]["sample_q"] == 16


def test_init_option(warm: WarmRuns, folder: Path) -> None:
    assert warm.run(folder)[0] == 0
    start = str(RUN / "epoch-last.pth")
    code, text = warm.run(folder, "--name", "fine", "--init", start, "--set", "epoch_max=1")
    assert code == 0, text
    code, text = warm.run(folder, "--name", "fine", "--init", "none.pth", "--overwrite")
    assert code == 2
    assert text.startswith("error: init: 'none.pth' is neither a file nor a known name; allowed: ")


def test_profile_writes_a_trace(warm: WarmRuns, folder: Path) -> None:
    code, text = warm.run(folder, "--profile", "2", "--set", "epoch_max=1")
    assert code == 0, text
    trace = json.loads((folder / RUN / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert any("conv" in str(name) for name in names)
    assert sum(str(name).startswith("ProfilerStep#") for name in names) == 2


def test_gpu_without_cuda_says_so(warm: WarmRuns, folder: Path) -> None:
    code, text = warm.run(
        folder, "--gpu", "0", "--set", "epoch_max=1", env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert code == 0, text
    assert text.splitlines()[0] == "--gpu 0: there is no CUDA here; running on the CPU"


def bad(**changes: object) -> str:
    return yaml.safe_dump(tiny_config(**changes))


@pytest.mark.parametrize(
    ("content", "arguments", "code", "expected"),
    [
        (None, (), 2, "tiny.yaml: can't be read"),
        ("a: [", (), 2, "tiny.yaml: no YAML"),
        ("a: !!python/object/apply:os.system ['true']", (), 2, "tiny.yaml: no YAML"),
        ("- 1", (), 2, "allowed: keys with values"),
        (bad(epoch_max=0), (), 2, "epoch_max"),
        (bad(optimizer__name="adm"), (), 2, "adam"),
        (bad(optimizer__args__lr="fast"), (), 2, "optimizer.args.lr"),
        (bad(model__name="lif"), (), 2, "liif"),
        (bad(train_dataset__batch_size=0), (), 2, "batch_size"),
        (bad(), ("--set", "epoch_mx=3"), 2, "epoch_max"),
        (bad(), ("--set", "nothing"), 2, "KEY.PATH=VALUE"),
        (bad(), ("--name", "../up"), 2, "--name"),
        (bad(), ("--gpu", "one"), 2, "--gpu"),
        (bad(), ("--init", ""), 2, "--init: '' given; allowed: a name or a path"),
        (bad(), ("--resume", ""), 2, "--resume: '' given"),
        (bad(), ("--name", "", "--tag", "a"), 2, "--name: '' given"),
        (bad(), ("--tag", ""), 2, "--tag: '' given"),
        (bad(), ("--profile", "-1"), 2, "--profile"),
        (bad(), ("--overwrite", "--resume", "auto"), 2, "--overwrite"),
        (bad(precision="fp16"), (), 2, "fp16 needs CUDA"),
        (bad(), ("--resume", "none.pth"), 2, "resume: 'none.pth' is neither"),
        (bad(), ("--resume", "tiny.yaml"), 1, "no checkpoint"),
        (bad(train_dataset__dataset__args__root_path="nowhere"), (), 1, "nowhere"),
        (bad(train_dataset__wrapper__args__inp_size=50), (), 1, "pictures/"),
        (bad(train_dataset__wrapper__args__sample_q=5000), (), 1, "sample_q 5000"),
        (bad(loss={"name": "l2"}), (), 2, "loss.name: 'l2' given; allowed: "),
        (bad(loss={"gradient": 0.5}), (), 2, "loss.gradient: 0.5 given beside the scattered"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_line(
    warm: WarmRuns, folder: Path, content: str | None, arguments: tuple[str, ...], code: int,
    expected: str,
) -> None:  # fmt: skip
    if content is None:
        (folder / "tiny.yaml").unlink()
    else:
        (folder / "tiny.yaml").write_text(content)
    ended, text = warm.run(folder, *arguments)
    assert ended == code, text
    assert expected in text
    assert "Traceback" not in text
    assert "error: " in text.splitlines()[-1]


def test_a_run_that_failed_before_its_first_step_is_in_nobodys_way(
    warm: WarmRuns, folder: Path
) -> None:
    good = (folder / "pictures" / "0.png").read_bytes()
    for number in range(6):
        (folder / "pictures" / f"{number}.png").write_bytes(good[:200])
    code, text = warm.run(folder)
    assert code == 1, text
    for number in range(6):
        (folder / "pictures" / f"{number}.png").write_bytes(good)
    code, text = warm.run(folder, "--set", "epoch_max=1")
    assert code == 0, text


def test_finished_is_said_of_the_same_model_only(warm: WarmRuns, folder: Path) -> None:
    assert warm.run(folder, "--set", "epoch_max=1")[0] == 0
    checkpoint = str(folder / RUN / "epoch-last.pth")
    arguments = ("--resume", checkpoint, "--name", "other", "--set", "epoch_max=1")
    code, text = warm.run(folder, *arguments)
    assert code == 0, text
    assert "finished, 1 epochs of 1" in text
    code, text = warm.run(folder, *arguments, "model.args.local_ensemble=false")
    assert code == 2, text
    assert "of another run (model.args.local_ensemble" in text


def test_no_place_to_save(warm: WarmRuns, folder: Path) -> None:
    (folder / "save").write_text("a file")
    code, text = warm.run(folder)
    assert code == 1
    assert text.startswith("error: save/_tiny: no folder to write to")


def test_sgd_and_a_single_batch(warm: WarmRuns, folder: Path) -> None:
    optimizer = "optimizer={name: sgd, args: {lr: 1e-2, momentum: 0.9}}"
    code, text = warm.run(folder, "--set", optimizer, "train_dataset.batch_size=40", "epoch_max=2")
    assert code == 0, text
    assert "1 batches of 40" in text
    assert load_checkpoint(folder / RUN / "epoch-last.pth")["step"] == 2

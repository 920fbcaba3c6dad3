"""An exception of the user's own ends the run: soon, with its traceback, no process left behind."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.runs import RUN, WarmRuns, tiny_config, wait_for
from tests.user_program import MESSAGE

SECONDS = 20
PROGRAM = Path(__file__).with_name("user_program.py")
USER_CODE = ("--set", "model.args.encoder_spec={name: user-encoder}")
USER_DATA = ("train_dataset.dataset={name: user-data}", "val_dataset.dataset={name: user-data}")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


def marked_processes(folder: Path) -> list[int]:
    """The processes started for a folder, by the variable that they inherit."""
    mark = f"USER_FOLDER={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def run_program(
    folder: Path, error: str, method: str, *arguments: str, launcher: Sequence[str] = ()
) -> tuple[int, str]:
    """Exit code and output of the user's program, which must end in time and leave none behind."""
    (folder / "raised").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, *launcher, str(PROGRAM), method, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "USER_ERROR": error, "USER_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output = process.communicate(timeout=150)[0]
        if error:
            assert time.time() - (folder / "raised").stat().st_mtime < SECONDS, output
        wait_for(lambda: not marked_processes(folder), seconds=10)
    finally:
        for pid in marked_processes(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)
    return process.returncode, output


def train(folder: Path, error: str, method: str, workers: int) -> tuple[int, str]:
    settings = ("--config", "tiny.yaml", *USER_CODE, *USER_DATA, f"num_workers={workers}")
    return run_program(folder, error, method, "train_liif.py", *settings)


def check_end(code: int, output: str, error: str) -> None:
    """The end is that of the user's error, whatever process raised it."""
    what = error.split(":")[1]
    last = output.splitlines()[-1]
    if what == "SystemExit":
        assert code == 7, output
    elif what == "KeyboardInterrupt":
        assert (code, last) == (130, "interrupted"), output
    elif what == "OutOfMemoryError":
        assert code == 1, output
        assert last.startswith("error: the GPU's memory is full")
    elif what == "exit":
        assert (code, last.split(" called")[0]) == (1, "RuntimeError: exit()"), output
        assert 'user_program.py", line' in output
    else:
        assert code == 1, output
        assert what in last, output
        assert MESSAGE in last
        assert 'user_program.py", line' in output
    assert "a loader process was killed" not in output


@pytest.mark.parametrize(
    "error", ["encoder:KeyError", "data:RuntimeError", "validation:KeyError", "encoder:exit"]
)
def test_an_error_ends_training(warm: WarmRuns, folder: Path, error: str) -> None:
    settings = (*USER_CODE, *USER_DATA, "num_workers=2")
    pid = warm.start(folder, *settings, env={"USER_ERROR": error}, fault=["user_code"])
    code = warm.wait(pid, seconds=60)
    check_end(code, (folder / "output.txt").read_text(), error)
    assert time.time() - (folder / "raised").stat().st_mtime < SECONDS
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


@pytest.mark.parametrize(
    ("script", "work", "arguments"),
    [
        ("demo", "render_together", ("a.png", "-s", "2")),
        ("test", "run_and_report", ("--suite", "set5", "--baseline", "bicubic")),
    ],
)
def test_an_exit_is_no_good_end(
    monkeypatch: pytest.MonkeyPatch, script: str, work: str, arguments: tuple[str, ...]
) -> None:
    module = importlib.import_module(script)
    monkeypatch.setattr(module, work, lambda _: sys.exit())
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"exit\(\) called by code"):
        module.main()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2, 8])
@pytest.mark.parametrize("where", ["encoder", "data", "validation"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_wherever_it_is_raised(folder: Path, where: str, workers: int, method: str) -> None:
    error = f"{where}:RuntimeError"
    check_end(*train(folder, error, method, workers), error)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["encoder", "data"])
@pytest.mark.parametrize(
    "what",
    [
        "KeyError",
        "UserError",
        "OutOfMemoryError",
        "SystemExit",
        "KeyboardInterrupt",
        "OSError",
        "BrokenPipeError",
    ],
)
def test_whatever_is_raised(folder: Path, where: str, what: str) -> None:
    error = f"{where}:{what}"
    code, output = train(folder, error, "fork", 2)
    if what == "OSError":  # as for files: a line
        assert (code, output.splitlines()[-1]) == (1, f"error: {MESSAGE}")
    else:
        check_end(code, output, error)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["encoder", "data", "validation"])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_two_ends_both_and_torchrun_starts_them_again(
    folder: Path, where: str, rank: int
) -> None:
    """Item 5 is made by one of the two processes; so in the data set each of them may raise."""
    error = f"{where}:RuntimeError" + (f":{rank}" if where != "data" else "")
    settings = ("--config", "tiny.yaml", *USER_CODE, *USER_DATA, "num_workers=2", f"seed={rank}")
    code, output = run_program(
        folder,
        *(error, "fork", "train_liif.py", *settings, "resume=auto"),
        launcher=(*TORCHRUN, "--max-restarts=1", "--monitor-interval=1"),
    )
    assert code == 1
    assert f"RuntimeError: {MESSAGE}" in output
    assert (folder / "starts").read_text().count("once more") == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_an_error_ends_a_test(folder: Path, method: str) -> None:
    code, output = train(folder, "", method, 0)
    assert code == 0, output
    part = {**tiny_config()["val_dataset"], "dataset": {"name": "user-data"}}
    part["wrapper"] = {"name": "sr-implicit-downsampled", "args": {"scale_min": 2, "scale_max": 2}}
    config = {"test_dataset": part, "data_norm": tiny_config()["data_norm"], "num_workers": 2}
    (folder / "test.yaml").write_text(yaml.safe_dump(config))
    model = ("--model", str(RUN / "epoch-last.pth"))
    for error in ("data:RuntimeError", "validation:KeyError"):
        arguments = ("test.py", "--config", "test.yaml", *model)
        check_end(*run_program(folder, error, method, *arguments), error)
    arguments = ("test.py", "--suite", "pictures", "--scales", "2", "--lr", "matlab", *model)
    check_end(*run_program(folder, "validation:KeyError", method, *arguments), error)

"""Several processes train as one does, and end together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import distributed
from engine.distributed import Processes, wait_for_all
from engine.loader import Batches, per_process, share
from engine.weights.checkpoint import load_checkpoint
from tests.runs import RUN, SAVE, WarmRuns, outcome, wait_for, write_config
from utils import ConfigError

STEPS = ("--set", "epoch_max=4", "multi_step_lr=null", "optimizer.args.lr=0.001")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_processes(
    warm: WarmRuns, folder: Path, count: int, *arguments: str, **options: Any
) -> list[int]:
    """A run of several processes, started as torchrun would start them."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        warm.start(
            folder,
            *arguments,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            output=f"output-{rank}.txt",
            **options,
        )
        for rank in range(count)
    ]


def run_processes(
    warm: WarmRuns, folder: Path, count: int, *arguments: str, **options: Any
) -> list[tuple[int, str]]:
    """Exit code and output of each process."""
    pids = start_processes(warm, folder, count, *arguments, **options)
    codes = [warm.wait(pid) for pid in pids]
    outputs = [(folder / f"output-{rank}.txt").read_text() for rank in range(count)]
    return list(zip(codes, outputs, strict=True))


def losses(folder: Path) -> np.ndarray:
    """(steps, 3): step, epoch, loss."""
    return np.loadtxt(folder / RUN / "losses.csv", delimiter=",", skiprows=1)


def difference(one: Path, other: Path) -> tuple[float, float]:
    """Largest difference of the losses, and of the weights and their average."""
    weights, others = (
        [*checkpoint["model"]["sd"].values(), *checkpoint["ema"].values()]
        for checkpoint in (load_checkpoint(f / RUN / "epoch-last.pth") for f in (one, other))
    )
    pairs = zip(weights, others, strict=True)
    worst = max(float((value - counterpart).abs().max()) for value, counterpart in pairs)
    return float(np.abs(losses(one) - losses(other)).max()), worst


def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One more folder with pictures and configuration."""
    folder = tmp_path_factory.mktemp("run")
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def single(warm: WarmRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process and 20 steps."""
    folder = prepared(tmp_path_factory)
    code, text = warm.run(folder, *STEPS)
    assert code == 0, text
    return folder


@pytest.mark.parametrize(("count", "accumulate"), [(2, 1), (2, 2), (1, 2), (4, 1)])
def test_processes_and_micro_batches_make_no_difference(
    warm: WarmRuns,
    single: Path,
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    accumulate: int,
) -> None:
    """Batches of 4, the last of each epoch of 2, in which two of four processes have no part."""
    other = prepared(tmp_path_factory)
    ended = run_processes(warm, other, count, *STEPS, f"accumulate={accumulate}")
    assert [code for code, _ in ended] == [0] * count, ended
    assert all(text == "" for _, text in ended[1:]), ended
    loss, weight = difference(single, other)
    print(f"{count} processes, accumulate {accumulate}: losses {loss:.1e}, weights {weight:.1e}")
    assert len(losses(other)) == 20
    assert loss < 1e-5
    assert weight < 1e-5
    one, many = (load_checkpoint(f / RUN / "epoch-last.pth") for f in (single, other))
    assert many["best"] == pytest.approx(one["best"], abs=1e-4)


def test_a_parameter_that_is_never_used_makes_no_difference(
    warm: WarmRuns, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nor does it with micro-batches, whose gradients are exchanged with the last of them."""
    one, two = prepared(tmp_path_factory), prepared(tmp_path_factory)
    code, text = warm.run(one, "--set", "epoch_max=1", fault=("unused_parameter",))
    assert code == 0, text
    settings = ("--set", "epoch_max=1", "accumulate=2")
    ended = run_processes(warm, two, 2, *settings, fault=("unused_parameter",))
    assert [code for code, _ in ended] == [0, 0], ended
    assert max(difference(one, two)) < 1e-5
    weights = load_checkpoint(two / RUN / "epoch-last.pth")["model"]["sd"]
    assert weights["encoder.unused"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("decay", ["0.9", "null"])
def test_validation_is_of_one_process_statistics(warm: WarmRuns, folder: Path, decay: str) -> None:
    """Those of the first, which saves its own: a run that goes on from them has no others."""
    settings = ("--set", "epoch_max=1", f"ema_decay={decay}")
    ended = run_processes(warm, folder, 2, *settings, fault=("own_buffers",))
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = ((folder / f"{rank}.txt").read_text() for rank in range(2))
    assert "own_1': 7, " in first
    assert first == second


def test_resumed_from_one_process_to_two_and_back(
    warm: WarmRuns, single: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = prepared(tmp_path_factory)
    resume = (*STEPS, *SAVE[1:])
    code, text = warm.run(other, *resume, fault=("at_step", 7, "SIGTERM"))
    assert code == 143, text
    ended = run_processes(
        warm, other, 2, "--resume", "auto", *resume, fault=("at_step", 6, "SIGTERM", 1)
    )
    assert [code for code, _ in ended] == [143, 128 + 15], ended
    assert "SIGTERM: saved" in ended[0][1]
    code, text = warm.run(other, "--resume", "auto", *resume)
    assert code == 0, text
    assert "2 epochs finished, 3 of 5 steps" in text
    loss, weight = difference(single, other)
    assert len(losses(other)) == 20
    assert loss < 1e-5
    assert weight < 1e-5


@pytest.fixture(scope="module")
def calm(warm: WarmRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happens to."""
    folder = prepared(tmp_path_factory)
    assert [code for code, _ in run_processes(warm, folder, 2)] == [0, 0]
    return folder


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_other(
    warm: WarmRuns, folder: Path, calm: Path, rank: int
) -> None:
    """Also the first, which writes and keeps what the others find each other by."""
    started = time.monotonic()
    ended = run_processes(warm, folder, 2, *SAVE, fault=("at_step", 8, "SIGKILL", rank))
    assert time.monotonic() - started < 60
    assert ended[rank][0] == -signal.SIGKILL, ended
    code, text = ended[1 - rank]
    assert code == 1, ended
    assert text.splitlines()[-1] == (
        "error: another process of this run has ended; the last checkpoint is whole, go on from "
        "it with --resume auto"
    )
    assert load_checkpoint(folder / RUN / "epoch-last.pth")["step"] == 7
    again = run_processes(warm, folder, 2, "--resume", "auto")
    assert [code for code, _ in again] == [0, 0], again
    assert outcome(folder / RUN) == outcome(calm / RUN)


def test_a_broken_picture_seen_by_one_process_ends_both(warm: WarmRuns, folder: Path) -> None:
    (folder / "pictures/3.png").write_bytes(b"no picture")
    ended = run_processes(warm, folder, 2)
    assert [code for code, _ in ended] == [1, 1], ended
    assert any("3.png" in text.splitlines()[-1] for _, text in ended)
    assert not any("Traceback" in text for _, text in ended)


def test_numbers_that_are_not_finite_name_all_files(warm: WarmRuns, folder: Path) -> None:
    ended = run_processes(warm, folder, 2, fault=("non_finite", 2, "loss"))
    assert [code for code, _ in ended] == [1, 1], ended
    batch = load_checkpoint(folder / RUN / "diagnosis-step-2.pth")["diagnosis"]["batch"]
    assert [len(part["files"]) for part in batch] == [2, 2]


def test_uneven_splits_are_refused_with_sizes_that_work(warm: WarmRuns, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"10 given; allowed .* multiples of 4, such as 8 or 12"):
        per_process(10, processes=2, accumulate=2)
    with pytest.raises(ConfigError, match=r"multiples of 4, such as 4$"):
        per_process(3, processes=4)
    ended = run_processes(warm, folder, 2, "--set", "train_dataset.batch_size=5")
    assert [code for code, _ in ended] == [2, 2], ended
    assert [len(text.splitlines()) for _, text in ended] == [1, 0]


def test_a_common_mistake_is_reported_once(warm: WarmRuns, folder: Path) -> None:
    ended = run_processes(warm, folder, 2, "--resume", "none.pth")
    assert [code for code, _ in ended] == [2, 2], ended
    assert ended[0][1].startswith("error: resume: 'none.pth' is neither a file nor a known name")
    assert ended[1][1] == ""


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_cover_each_item_once(processes: int) -> None:
    for count in range(12):
        parts = [list(range(count))[share(count, processes, rank)] for rank in range(processes)]
        assert [item for part in parts for item in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("processes", [2, 3])
def test_validation_deals_out_whole_batches_once(processes: int) -> None:
    def keys(rank: int, count: int) -> list[list[Any]]:
        return list(Batches(13, 3, seed=0, training=False, rank=rank, processes=count))

    dealt = [keys(rank, processes) for rank in range(processes)]
    together = sorted(batch for part in dealt for batch in part)
    assert together == keys(0, 1)


def test_one_process_needs_no_group() -> None:
    alone = Processes()
    value = torch.tensor([2.0])
    assert alone.sum(value) is value
    assert alone.gather("x") == ["x"]
    assert alone.broadcast_from_main(lambda: 5) == 5


def children(pid: int) -> list[int]:
    """The processes that a process has started, as the system lists them."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@contextlib.contextmanager
def command(root: Path, folder: Path, *arguments: str) -> Any:
    """The real command, started; none of its processes outlives the test."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(root / "train_liif.py"), "--config", "tiny.yaml", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [*children(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)


OBEYS = "trap 'exit 143' TERM; echo; while :; do sleep 0.01; done"
LASTS = "echo; exec sleep 100"


@pytest.mark.parametrize(
    ("scripts", "code", "said"),
    [
        (["exit 0", "exit 0"], 0, None),
        (["exit 1", "kill -9 $$"], 1, (1, "SIGKILL")),
        (["exit 1", "exit 0", "kill -SEGV $$"], 1, (2, "SIGSEGV")),
        (["exit 99", "exit 1"], 99, (0, "exit code 99")),
        (["exit 2", "exit 2"], 2, None),
        ([LASTS, "exit 2"], 2, None),
        (["kill -9 $$", OBEYS, LASTS], 1, (0, "SIGKILL")),
    ],
)
def test_the_launcher_tells_of_a_process_that_could_not(
    scripts: list[str],
    code: int,
    said: tuple[int, str] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not of one that has said a line, nor of those that the launcher itself has ended then."""
    monkeypatch.setattr(distributed, "GRACE", 1)
    processes = [subprocess.Popen(["sh", "-c", script]) for script in scripts]
    for process, script in zip(processes, scripts, strict=True):
        if script not in (LASTS, OBEYS):
            process.wait()
    assert wait_for_all(processes, []) == code
    assert all(process.returncode is not None for process in processes)
    advice = "go on from the last checkpoint with --resume auto"
    line = ""
    if said is not None:
        number, how = said
        line = f"error: process {number} of {len(scripts)} (from 0) was ended by {how}; {advice}\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("scripts", "given", "code"),
    [
        ([OBEYS, OBEYS], [signal.SIGTERM], 143),
        ([OBEYS, LASTS], [signal.SIGTERM], 143),
        ([OBEYS, "trap '' TERM; echo; sleep 1; exit 0"], [signal.SIGTERM], 143),
        (["trap '' INT; " + LASTS, OBEYS], [signal.SIGINT, signal.SIGTERM], 130),
        (["echo; sleep 0.5", "trap '' TERM; echo; sleep 0.5"], [], 0),
    ],
)
def test_the_launcher_passes_signals_on(
    scripts: list[str], given: list[int], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = [subprocess.Popen(["sh", "-c", text], stdout=subprocess.PIPE) for text in scripts]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # the traps are set
    assert wait_for_all(processes, given) == code
    assert all(process.returncode is not None for process in processes)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_gpu_option_starts_the_processes(root: Path, folder: Path, calm: Path) -> None:
    """`--gpu 0,1`: stopped by SIGTERM, then one process killed, then left to end."""
    arguments = ("--gpu", "0,1", "--resume", "auto")
    long = (*SAVE, "epoch_max=1000")
    last = folder / RUN / "epoch-last.pth"

    with command(root, folder, *arguments, *long) as process:
        wait_for(last.exists)
        process.terminate()
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 143, output
        assert "SIGTERM: saved" in output
        assert "Traceback" not in output
    with command(root, folder, *arguments, *long) as process:
        before = last.stat().st_mtime_ns
        wait_for(lambda: last.stat().st_mtime_ns != before)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        started = time.monotonic()
        output = process.communicate(timeout=240)[0]
        assert time.monotonic() - started < 60
        assert process.returncode == 1, output
        # Its peer says so too, if the launcher leaves it the time.
        assert re.search(
            r"^error: process [01] of 2 .* ended by SIGKILL; .*--resume auto", output, re.M
        )
        assert "Traceback" not in output
    finished = load_checkpoint(last)["epoch"]
    end = ("--set", f"epoch_max={max(3, finished)}")
    with command(root, folder, *arguments, *end) as process:
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
    steps = (calm / RUN / "losses.csv").read_text()
    assert (folder / RUN / "losses.csv").read_text().startswith(steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("pass", 0),
        ("sys.exit(2)", 2),
        ("os.kill(os.getppid(), signal.SIGTERM)", 143),
        ("os.kill(os.getppid(), signal.SIGINT)", 130),
        ("os.kill(os.getppid(), signal.SIGHUP)", 129),
    ],
)
def test_the_launcher_ends_with_its_processes(
    root: Path, tmp_path: Path, what: str, code: int
) -> None:
    """Also by a signal while it starts them, and where an abort is near at its own end."""
    script = tmp_path / "rank.py"
    rest = "; signal.pause()" if code > 128 else ""
    script.write_text(
        "import os, signal, sys\nfrom pathlib import Path\n"
        "Path(__file__).with_name(str(os.getpid())).touch()\n"
        f"if os.environ['RANK'] == '0': {what}{rest}\nelse: pass{rest}\n"
    )
    launcher = (
        "import atexit, os, sys; from engine import distributed; atexit.register(os.abort); "
        "distributed.launch('0,1,2', sys.argv[1], [])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", launcher, str(script)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,  # which waits for all that hold its other end
        text=True,
        timeout=240,
    )
    assert ended.returncode == code, ended.stderr
    script.unlink()
    started = [path.name for path in tmp_path.iterdir()]
    assert all(pid.isdigit() for pid in started)
    assert not any(Path("/proc", pid).exists() for pid in started)


@pytest.mark.slow
def test_torchrun_restarts_and_goes_on(root: Path, folder: Path, calm: Path) -> None:
    """`torchrun --max-restarts`: a process is killed, and the run ends as if it had not been."""
    arguments = ["--nproc_per_node=2", "--max-restarts=3", "--monitor-interval=1", "--standalone"]
    script = [str(root / "train_liif.py"), "--config", "tiny.yaml", "--resume", "auto", *SAVE]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments, *script],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for((folder / RUN / "epoch-last.pth").exists)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        output = process.communicate(timeout=240)[0]
    finally:
        for pid in [*children(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert "going on from" in output
    assert losses(folder)[:, 0].tolist() == list(range(1, 16))
    assert outcome(folder / RUN) == outcome(calm / RUN)

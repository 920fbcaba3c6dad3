"""engine.runtime: device choice, precision, and how scripts end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import runtime
from engine.runtime import autocast, choose_device, parse_gpu, settle_precision
from utils import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize("gpu", ["", "a", "0,", "0,0", "-1", "1.5"])
def test_gpu_refused(gpu: str) -> None:
    with pytest.raises(ConfigError, match="--gpu"):
        parse_gpu(gpu)


def test_gpu_numbers() -> None:
    assert parse_gpu("0, 2") == [0, 2]
    assert parse_gpu(None) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_gpu_without_cuda_is_the_cpu_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_device("0").type == "cpu"
    assert capsys.readouterr().err == "--gpu 0: there is no CUDA here; running on the CPU\n"


@pytest.mark.usefixtures("bf16")
def test_autocast_changes_products_only() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
        assert (a + a).dtype == torch.float32
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_bf16_without_instructions_is_fp32_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "has_bf16", lambda kind: kind != "cpu")
    a = torch.full((2, 2), 1 + 2**-10)  # bfloat16 would round it to 1
    with autocast(CPU, "bf16"):
        assert torch.equal(a @ a, torch.full((2, 2), 2 * (1 + 2**-10) ** 2))
    assert settle_precision(CPU, "bf16") == "fp32"
    assert settle_precision(torch.device("cuda"), "bf16") == "bf16"
    assert settle_precision(CPU, "fp32") == "fp32"
    assert capsys.readouterr().err == "precision bf16: this CPU has none; computing in fp32\n"


def test_precision_refused() -> None:
    with pytest.raises(ConfigError, match="fp16 needs CUDA; allowed on cpu: fp32, bf16"):
        autocast(CPU, "fp16")
    with pytest.raises(ConfigError, match="allowed: fp32, bf16, fp16"):
        autocast(CPU, "fp8")


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise ConfigError('bad value')", 2, "error: bad value"),
        ("raise DataError('bad file')", 1, "error: bad file"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        pytest.param(
            *("open('/nowhere/file')", 1, "error: /nowhere/file: No such file or directory"),
            marks=pytest.mark.slow,
        ),
        pytest.param("return 3", 3, "", marks=pytest.mark.slow),
        pytest.param("pass", 0, "", marks=pytest.mark.slow),
    ],
)
def test_how_a_script_ends(root: Path, body: str, code: int, line: str) -> None:
    script = (
        "from utils import ConfigError, DataError\n"
        "from engine.runtime import run_script\n"
        f"def main():\n    {body}\n"
        "run_script(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr.strip() == line


@pytest.mark.parametrize(
    ("main", "error"),
    [
        ("lambda: 1 / 0", "ZeroDivisionError: division by zero"),
        # Of another pipe than the one that results are printed to (`| head`).
        ("lambda: (os.close((ends := os.pipe())[0]), os.write(ends[1], b'a'))", "BrokenPipeError"),
    ],
)
def test_bugs_keep_their_traceback(root: Path, main: str, error: str) -> None:
    script = f"import os\nfrom engine.runtime import run_script\nrun_script({main})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert error in done.stderr


def test_scripts_run_on_systems_that_are_not_posix(root: Path, folder: Path) -> None:
    """Without fcntl, resource, SIGCHLD and the like: training says what it can't promise."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(root)!r})
import torch, torch.utils.data, multiprocessing.pool
sys.modules.update(fcntl=None, resource=None)
for module, names in ((os, ["sched_getaffinity", "uname"]), (signal, ["SIGCHLD", "SIGBUS"])):
    for name in names:
        delattr(module, name)
import demo, test, train_liif

def run(main, *arguments):
    sys.argv = ["script", *arguments]
    assert main() == 0

run(train_liif.main, "--config", "tiny.yaml", "--set", "epoch_max=1")
model = "save/_tiny/epoch-last.pth"
run(demo.main, "--input", "pictures/0.png", "--scale", "2", "--model", model, "--output", "0.png")
run(test.main, "--suite", "pictures", "--scales", "2", "--lr", "matlab", "--model", model)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "save/_tiny: can't be locked" in done.stderr
    assert (folder / "0.png").exists()
    assert "results in" in done.stdout

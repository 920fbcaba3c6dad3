"""Small training runs for the tests of training: pictures, a configuration, and warm processes.

Importing torch takes longer than such a run does. So a server process imports everything once,
and forks a process per run, which then is what `python train_liif.py` would be: its own arguments,
folder, signals and exit code. `tests.faults` holds what can be made to happen inside a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 6
SAVE = ("--set", "save_minutes=0.0001")
"""Arguments for a checkpoint after every step."""
RUN = Path("save/_tiny")
"""Where a run of `tiny.yaml` is saved."""


def make_pictures(folder: Path, count: int = PICTURES, size: tuple[int, int] = (20, 24)) -> None:
    """Noise pictures 0.png, 1.png, ..., always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for number in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A configuration of three epochs of five steps each; `changes` by dotted paths (`__`)."""
    folder: dict[str, Any] = {"name": "image-folder", "args": {"root_path": "pictures"}}
    args = {"inp_size": 5, "scale_max": 3, "sample_q": 16}
    norm = {"sub": [0.5], "div": [0.5]}
    encoder = {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}
    config: dict[str, Any] = {
        "train_dataset": {
            "dataset": {**folder, "args": {**folder["args"], "repeat": 3}},
            "wrapper": {"name": "sr-implicit-downsampled", "args": {**args, "augment": True}},
            "batch_size": 4,
        },
        "val_dataset": {
            "dataset": folder,
            "wrapper": {"name": "sr-implicit-downsampled", "args": args},
            "batch_size": 2,
        },
        "data_norm": {"inp": norm, "gt": norm},
        "model": {
            "name": "liif",
            "args": {
                "encoder_spec": {"name": "edsr-baseline", "args": encoder},
                "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}},
            },
        },
        "optimizer": {"name": "adam", "args": {"lr": 1e-2}},
        "epoch_max": 3,
        "multi_step_lr": {"milestones": [1, 2], "gamma": 0.5},
        "epoch_val": 1,
        "epoch_save": 2,
        "num_workers": 0,
        "ema_decay": 0.9,
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = config
        for key in parents:
            place = place[key]
        place[last] = value
    return config


def write_config(folder: Path, name: str = "tiny.yaml", **changes: Any) -> Path:
    """A folder to train in: `pictures/` and a configuration file."""
    if not (folder / "pictures").exists():
        make_pictures(folder / "pictures")
    path = folder / name
    path.write_text(yaml.safe_dump(tiny_config(**changes)))
    return path


class WarmRuns:
    """Starts runs in forked processes; a context manager that leaves none behind."""

    def __enter__(self) -> WarmRuns:
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self.pids: list[int] = []
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)

    def ask(self, **request: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        folder: Path,
        *arguments: str,
        fault: Sequence[Any] = (),
        env: Mapping[str, str] | None = None,
        output: str = "output.txt",
    ) -> int:
        """Start `train_liif.py --config tiny.yaml *arguments` in `folder`; gives its process id.

        Args:
            fault: the name of one of `tests.faults` and its arguments.
            output: file in `folder` for both output streams, written anew.
        """
        pid = self.ask(
            op="start",
            folder=str(folder),
            arguments=["--config", "tiny.yaml", *arguments],
            fault=list(fault),
            env=dict(env or {}),
            output=output,
        )
        self.pids.append(pid)
        return pid

    def wait(self, pid: int, seconds: float = 240) -> int:
        """The exit code, negative for a signal."""
        code = self.ask(op="wait", pid=pid, seconds=seconds)
        assert code is not None, f"process {pid} still runs after {seconds} seconds"
        self.pids.remove(pid)
        return code

    def run(self, folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
        """Exit code, and what was printed on both streams."""
        code = self.wait(self.start(folder, *arguments, **options))
        return code, (folder / options.get("output", "output.txt")).read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Returns once the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def finish(warm: WarmRuns, folder: Path, workers: int = 0) -> str:
    """Go on to the end of a run."""
    code, text = warm.run(folder, "--resume", "auto", *SAVE, f"num_workers={workers}")
    assert code == 0, text
    assert "Traceback" not in text
    return text


def outcome(folder: Path) -> dict[str, Any]:
    """What two runs must share bit for bit: tensors (by checksum), counters, best score, losses."""
    from engine.weights.checkpoint import load_checkpoint

    last, best = (load_checkpoint(folder / f"epoch-{name}.pth") for name in ("last", "best"))
    keys = ("checksum", "epoch", "position", "step", "best", "loss_sum", "items", "scheduler")
    return {
        **{key: last[key] for key in keys},
        "rates": [group["lr"] for group in last["optimizer"]["sd"]["param_groups"]],
        "best_checksum": best["checksum"],
        "best_epoch": best["epoch"],
        "losses": (folder / "losses.csv").read_text(),
    }


# ---- inside the forked processes ----


def be_run(request: Mapping[str, Any]) -> None:
    """Turn a forked process into a run of train_liif.py."""
    os.setsid()
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request["env"])
    sys.argv = [str(ROOT / "train_liif.py"), *request["arguments"]]
    if request["fault"]:
        name, *arguments = request["fault"]
        from tests.faults import FAULTS

        FAULTS[name](*arguments)
    import train_liif
    from engine.runtime import run_script

    run_script(train_liif.main)


def serve() -> None:
    # The optimiser imports dynamo, which takes longer than a run.
    import torch._dynamo  # noqa: F401

    import train_liif  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "start":
            pid = os.fork()
            if pid == 0:
                try:
                    be_run(request)
                except SystemExit as ended:
                    sys.stdout.flush()
                    os._exit(int(ended.code or 0))
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(99)
            print(json.dumps(pid), flush=True)
            continue
        end, code = time.monotonic() + request["seconds"], None
        while code is None and time.monotonic() < end:
            done, status = os.waitpid(request["pid"], os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.005)
        print(json.dumps(code), flush=True)


if __name__ == "__main__":
    serve()

"""The scripts as users start them, without the seconds that importing torch takes.

A process imports everything once and forks one process per command, which then is what
`python train_liif.py ...` would be: its own arguments, folder, output and exit code. A command
that doesn't end in time is killed, and one that starts a program ends with `RAN_CODE`: nothing
that the scripts do on a CPU needs another program, but code in a file from a stranger would.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
TIMED_OUT, RAN_CODE, NO_EXIT = 124, 98, 99
STARTS_PROGRAM = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code` is negative for a signal, TIMED_OUT after the time limit."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a command that was refused or failed: the one line beginning `error: `.

        Fails where there is none, another one, anything after it, or a traceback.
        """
        assert self.code in (1, 2), self
        assert "Traceback" not in self.out + self.err, self
        _, *message = re.split("^error: ", self.err, flags=re.MULTILINE)
        assert len(message) == 1, self
        return message[0].rstrip("\n")

    @property
    def line(self) -> str:
        """`error`, which must have one line."""
        assert "\n" not in self.error, self
        return self.error


class Commands:
    """Runs commands; a context manager."""

    def __enter__(self) -> Commands:
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)

    def run(
        self,
        script: str,
        *arguments: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
        seconds: float = 60,
        file_limit: int | None = None,
        plain_user: bool = False,
    ) -> Ended:
        """`python SCRIPT ARGUMENTS` in a folder.

        Args:
            script: its name, such as "demo.py".
            seconds: killed if it takes longer.
            file_limit: the size in bytes that no file can exceed, as on a disk that fills.
            plain_user: without the superuser's right to read and write everything.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        request = {
            "script": script,
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "env": dict(env or {}),
            "seconds": seconds,
            "file_limit": file_limit,
            "plain_user": plain_user,
        }
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Ended(*json.loads(self.server.stdout.readline()))


def real_command(script: str, *arguments: object, folder: Path, seconds: float = 300) -> Ended:
    """The same in a process of its own, started as users do, on a machine that may be busy."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name in there; but not the locks, which name processes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- inside the server and its children ----


def give_up_rights() -> None:
    """Be refused by permissions also as the superuser, whose process may pass over them."""
    if os.geteuid() != 0:
        return
    passes_permissions = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low bits, then high
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    for index in (0, 1, 2):
        sets[index] &= ~passes_permissions
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def forbid_programs(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: the process ends where it starts a program."""
    if event in STARTS_PROGRAM:
        os.write(2, f"{event} {arguments}\n".encode())
        os._exit(RAN_CODE)


def be_command(request: Mapping[str, Any], outputs: Sequence[int]) -> NoReturn:
    """Turn a forked process into the command, and end it."""
    import resource

    from engine.runtime import run_script

    os.setsid()
    os.chdir(request["folder"])
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(descriptor, number)
    os.environ.update(request["env"])
    sys.argv = [str(ROOT / request["script"]), *request["arguments"]]
    sys.addaudithook(forbid_programs)
    if request["plain_user"]:
        give_up_rights()
    if request["file_limit"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = request["file_limit"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = NO_EXIT
    try:
        run_script(sys.modules[request["script"].removesuffix(".py")].main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def follow(pid: int, pipes: Sequence[int], seconds: float) -> tuple[int, str, str]:
    """Exit code and outputs of a process, which is killed when the time is over."""
    parts = dict.fromkeys(pipes, b"")
    end = time.monotonic() + seconds
    code = None
    while code is None:
        for pipe in select.select(pipes, [], [], 0.005)[0]:
            parts[pipe] += os.read(pipe, 65536)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = TIMED_OUT
    for pipe in pipes:
        while select.select([pipe], [], [], 0)[0] and (rest := os.read(pipe, 65536)):
            parts[pipe] += rest
        os.close(pipe)
    out, err = (part.decode(errors="replace") for part in parts.values())
    return code, out, err


def serve() -> None:
    # What the optimiser imports takes longer than a run; the scripts are found by their names.
    for name in ("torch._dynamo", "train_liif", "test", "demo", "engine.evaluate.suite"):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        out, err = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            be_command(request, (out[1], err[1]))
        os.close(out[1])
        os.close(err[1])
        print(json.dumps(follow(pid, (out[0], err[0]), request["seconds"])), flush=True)


if __name__ == "__main__":
    serve()

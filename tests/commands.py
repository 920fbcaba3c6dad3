"""The scripts as users start them, without the seconds that importing torch takes.

A process imports everything once and forks one process per command, which then is what
`python train_liif.py ...` would be: its own arguments, folder, output, signals, exit handlers and
exit code. `tests.faults` holds what can be made to happen inside it.
"""

from __future__ import annotations

import atexit
import contextlib
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
TIMED_OUT, RAN_CODE = 124, 98
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
    """Starts commands in forked processes; a context manager that leaves none behind."""

    def __enter__(self) -> Commands:
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
        # A process that the tests have forked may hold its input open, so it would not see the end.
        self.server.terminate()
        self.server.communicate(timeout=30)

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
        """`python SCRIPT ARGUMENTS` in a folder, to its end.

        One that starts a program ends with `RAN_CODE`: nothing that the scripts do on a CPU needs
        another program, but code in a file from a stranger would.

        Args:
            script: its name, such as "demo.py".
            seconds: killed if it takes longer; its code is `TIMED_OUT` then.
            file_limit: the size in bytes that no file can exceed, as on a disk that fills.
            plain_user: without the superuser's right to read and write everything.
        """
        command = command_of(script, arguments, folder, env)
        limits = {"file_limit": file_limit, "plain_user": plain_user, "no_programs": True}
        return Ended(*self.ask(op="run", seconds=seconds, **command, **limits))

    def start(
        self,
        script: str,
        *arguments: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
        fault: Sequence[Any] = (),
        output: str = "output.txt",
    ) -> int:
        """Start a command; gives its process id.

        Args:
            fault: the name of one of `tests.faults` and its arguments.
            output: file in `folder` for both output streams, written anew.
        """
        command = command_of(script, arguments, folder, env)
        pid: int = self.ask(op="start", fault=list(fault), output=output, **command)
        self.pids.append(pid)
        return pid

    def wait(self, pid: int, seconds: float = 240) -> int:
        """The exit code of a command that was started, negative for a signal."""
        code = self.ask(op="wait", pid=pid, seconds=seconds)
        assert code is not None, f"process {pid} still runs after {seconds} seconds"
        self.pids.remove(pid)
        return code

    def ask(self, **request: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


def command_of(
    script: str, arguments: Sequence[object], folder: Path, env: Mapping[str, str] | None
) -> dict[str, Any]:
    given = [str(argument) for argument in arguments]
    return {"script": script, "arguments": given, "folder": str(folder), "env": dict(env or {})}


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


def be_command(request: Mapping[str, Any], out: int, err: int) -> NoReturn:
    """Turn a forked process into the command, and end it as Python would."""
    from engine.runtime import run_script

    os.setsid()
    os.chdir(request["folder"])
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), out, err]):
        os.dup2(descriptor, number)
    os.environ.update(request["env"])
    sys.argv = [str(ROOT / request["script"]), *request["arguments"]]
    limit_command(request)
    code = 1
    try:
        module = request["script"].removesuffix(".py").replace("/", ".")
        run_script(importlib.import_module(module).main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def limit_command(request: Mapping[str, Any]) -> None:
    """Apply what is asked of a command beyond its arguments."""
    if request.get("fault"):
        from tests.faults import FAULTS

        name, *arguments = request["fault"]
        FAULTS[name](*arguments)
    if request.get("no_programs"):
        sys.addaudithook(forbid_programs)
    if request.get("plain_user"):
        give_up_rights()
    if request.get("file_limit") is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = request["file_limit"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def start(request: Mapping[str, Any]) -> int:
    """Fork a process for a command whose output goes to a file; gives its id."""
    pid = os.fork()
    if pid == 0:
        path = Path(request["folder"], request["output"])
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        be_command(request, output, output)
    return pid


def wait(request: Mapping[str, Any]) -> int | None:
    """The exit code of a process; None where it has not ended when the time is over."""
    end = time.monotonic() + request["seconds"]
    while time.monotonic() < end:
        done, status = os.waitpid(request["pid"], os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def run(request: Mapping[str, Any]) -> tuple[int, str, str]:
    """Exit code and outputs of a command."""
    out, err = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        be_command(request, out[1], err[1])
    os.close(out[1])
    os.close(err[1])
    return follow(pid, (out[0], err[0]), request["seconds"])


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
    operations = {"start": start, "wait": wait, "run": run}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(operations[request["op"]](request)), flush=True)


if __name__ == "__main__":
    serve()

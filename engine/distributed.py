"""Several processes as one run: torch.distributed under torchrun, or started from `--gpu 0,1`."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from subprocess import Popen
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.runtime import choose_device, parse_gpu, say
from utils import ConfigError, DataError, UserError

TIMEOUT = timedelta(minutes=15)
# Exit codes of ends that the process itself has told of: see `runtime.run_script` and `signals`.
SPOKEN = (1, 2, 130, 143)
GRACE = 30  # seconds that processes have to end, once one of them has failed
PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
POLL = 0.1  # seconds between two looks at them
LOST_PEER = ("gloo/transport", "NCCL")  # where their errors are plain RuntimeErrors


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, of any types, with those of the main process."""
        if self.count == 1:
            return
        for tensor in tensors:
            # As bytes: no backend knows all types.
            content = tensor.detach().contiguous().flatten().view(torch.uint8)
            dist.broadcast(content, src=0)
            tensor.detach().copy_(content.view(tensor.dtype).view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """Collect what each process gives, in order of rank."""
        values: list[Any] = [value]
        if self.count > 1:
            values = [None] * self.count
            dist.all_gather_object(values, value)
        return values

    def gather_to_main(self, value: Any) -> list[Any]:
        """Collect what each process gives on the main one, in order of rank; [] on the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def all_or_none(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returns; a UserError on any process ends all, and one reports it."""
        made, failed = self.attempt(make)
        if failed is not None:
            reporter, error = failed
            raise error if self.rank == reporter else SystemExit(error.exit_code)
        return made

    def agreed(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returns; the first UserError of any process is raised on all."""
        made, failed = self.attempt(make)
        if failed is not None:
            raise failed[1]
        return made

    def attempt(self, make: Callable[[], Any]) -> tuple[Any, tuple[int, UserError] | None]:
        """What `make` returns, and the first rank on which it raised a UserError, with that."""
        if self.count == 1:
            return make(), None
        made, failure = None, None
        try:
            made = make()
        except UserError as error:
            failure = type(error)(str(error))  # the one caught holds on to what it met
        ranks = enumerate(self.gather(failure))
        return made, next(((rank, error) for rank, error in ranks if error is not None), None)

    def broadcast_from_main(self, make: Callable[[], Any]) -> Any:
        """Return on every process what `make` returns on the main one; errors as `all_or_none`."""
        made = [self.all_or_none(lambda: make() if self.is_main else None)]
        if self.count > 1:
            dist.broadcast_object_list(made)
        return made[0]

    def raise_once(self, error: UserError) -> NoReturn:
        """Raise an error that all processes have met; only the main process reports it."""
        raise error if self.is_main else SystemExit(error.exit_code)


def this_process() -> Processes:
    """This process among those that torchrun has started; the only one without it."""
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def start(gpu: str | None) -> tuple[Processes, torch.device]:
    """Join the run that torchrun has started, or be a run of one process.

    Returns:
        This process, and the device it computes on: its share of `gpu`, or of all there are.
    """
    processes = this_process()
    device = own_device(gpu, processes)
    join(processes, "nccl" if device.type == "cuda" else "gloo")
    return processes, device


def own_device(gpu: str | None, processes: Processes) -> torch.device:
    """The device that this process computes on: its share of `gpu`, or of all there are."""
    if processes.count == 1:
        return choose_device(gpu)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    numbers = parse_gpu(gpu)
    if torch.cuda.is_available():
        if numbers and local >= len(numbers):
            raise ConfigError(f"--gpu: {gpu!r} given to {local + 1} processes; allowed: one each")
        number = numbers[local] if numbers else local
        device = choose_device(str(number))
        torch.cuda.set_device(device)
        return device
    if numbers and processes.is_main:
        say(f"--gpu {gpu}: there is no CUDA here; running {processes.count} processes on the CPU")
    return torch.device("cpu")


def join(processes: Processes, backend: str, timeout: timedelta = TIMEOUT) -> None:
    """Make the process group of a run; one process alone needs none.

    Args:
        timeout: how long a process waits for the slowest of the others.

    Raises:
        DataError: the processes don't find each other.
    """
    if processes.count == 1:
        return
    try:
        store, _, _ = next(
            dist.rendezvous("env://", processes.rank, processes.count, timeout=TIMEOUT)
        )
        # After a restart torchrun's store still holds the addresses of processes that are gone.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"attempt-{attempt}", store),
            rank=processes.rank,
            world_size=processes.count,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the {processes.count} processes can't find each other ({reason})"
        ) from error


def stop() -> None:
    """Leave the process group, at the end of a run without errors: the others must do so too."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def parallel(model: nn.Module, device: torch.device, count: int, accumulate: int) -> nn.Module:
    """Wrap a model so that its gradients are averaged over the processes."""
    if count == 1:
        return model
    return DistributedDataParallel(
        model if accumulate == 1 else WithUnused(model, device),
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # The same graph in every step; but then gradients can't wait for later micro-batches.
        static_graph=accumulate == 1,
        find_unused_parameters=accumulate > 1,  # a static graph knows them
    )


class WithUnused(nn.Module):
    """A model beside a parameter that nothing uses.

    torch warns where it looks for unused parameters and finds none, and no filter can stop that.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, *args: Any) -> Any:
        return self.model(*args)


@contextlib.contextmanager
def lost_peers(advice: str) -> Iterator[None]:
    """Tell in one line, with what can be done, of errors here that another process's end caused.

    Raises:
        DataError: another process has ended; other errors pass.
    """
    try:
        yield
    except UserError:
        raise
    except RuntimeError as error:
        if not (dist.is_available() and dist.is_initialized()):
            raise
        if not isinstance(error, dist.DistError) and not any(s in str(error) for s in LOST_PEER):
            raise
        raise DataError(f"another process of this run has ended; {advice}") from error


def wants_launch(gpu: str | None) -> bool:
    """Whether `--gpu` asks for several processes that nobody has started yet."""
    return len(parse_gpu(gpu)) > 1 and "WORLD_SIZE" not in os.environ


def launch(gpu: str, script: str, arguments: Sequence[str]) -> NoReturn:
    """Run a script once per device of `--gpu` on this machine, and end with its exit code.

    What torchrun does, but for one thing: a signal that comes while processes are being started
    reaches all of them; torch's launcher leaves some behind.
    """
    count = len(parse_gpu(gpu))
    if torch.cuda.is_available():
        choose_device(gpu)  # refuses a device that is not there, once instead of once per process
    # Kept here, so that its port is known before a process starts.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count),
    }
    given: list[int] = []
    for name in PASSED_ON:
        number = getattr(signal, name, None)  # Windows lacks two of them
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # as by nohup
            signal.signal(number, lambda number, _: given.append(number))
    processes: list[Popen[bytes]] = []
    try:
        for rank in map(str, range(count)):
            processes.append(
                Popen(
                    [sys.executable, "-u", script, *arguments],
                    env={**environment, "RANK": rank, "LOCAL_RANK": rank},
                    start_new_session=True,  # a signal to the whole group would come twice
                )
            )
        code = wait_for_all(processes, given)
    finally:
        for process in processes:
            process.kill()
    os._exit(code)  # not by Python's tidying up: threads of a store have aborted a process there


def wait_for_all(processes: Sequence[Popen[bytes]], given: Sequence[int]) -> int:
    """Wait until all have ended, and pass on the signals that are added to `given` meanwhile.

    Returns:
        0; 128 and more after a signal; else the exit code of the first that failed, 1 for a signal.
    """
    passed, last = 0, math.inf
    first: list[tuple[int, int]] = []  # of those that were found at once to have failed
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) and not first:
            first = [(rank, code) for rank, code in enumerate(codes) if code]
            last = time.monotonic() + GRACE
            if not given:
                tell_of_silent_end(first, len(processes))
        if None not in codes:
            break
        new = given[passed:]
        for process in processes:
            for number in new:
                process.send_signal(number)
            if time.monotonic() > last:
                process.kill()
        passed += len(new)
        time.sleep(POLL)
    if not first:
        return 0
    return 128 + given[0] if given else max(1, first[0][1])


def tell_of_silent_end(failed: Iterable[tuple[int, int]], count: int) -> None:
    """Say which process, by rank and exit code, ended a run where none could say so itself."""
    for rank, code in failed:
        if code not in SPOKEN:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            say(
                f"error: process {rank} of {count} (from 0) was ended by {how}; go on from the "
                "last checkpoint with --resume auto"
            )
            return

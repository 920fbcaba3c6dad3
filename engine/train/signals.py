"""SIGINT and SIGTERM: the first asks for a checkpoint and an end, the second ends at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Stopped(Exception):
    """The run was asked to end, and its state is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopRequest:
    """Which signal has asked the run to end, if any."""

    def __init__(self) -> None:
        self.signum = 0

    @property
    def reason(self) -> int:
        """The signal, or SIGTERM where only another process of the run has got one."""
        return self.signum or signal.SIGTERM

    def listen(self) -> None:
        """Take SIGINT and SIGTERM as requests from here on."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.receive)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal, and let the next one end the process."""
        self.signum = signum
        # From here on the system itself ends the process, also inside a long computation.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        name = signal.Signals(signum).name
        os.write(2, f"{name}: saving a checkpoint; a second signal stops at once\n".encode())

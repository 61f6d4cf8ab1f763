"""One child process with a log file: started, waited for, stopped. Used by `stack.Stack`.

Assumes Linux and util-linux's `setpriv` (essential on Debian): the child dies with the thread that started
it, so a killed test run leaves nothing behind.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOG_TAIL_LINES = 25
STOP_GRACE_S = 10.0


class ProgramError(RuntimeError):
    """A program did not become ready; the message holds the end of its log and the repeating command."""


class Program:
    """A program with its log in `log`. Not started by the constructor.

    `probe` returns None once the program answers, else what is missing (for the error message). `stop`
    kills the program if it has not ended after `grace_s` seconds.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        probe: Callable[[], str | None],
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.ready_s: float | None = None
        """Seconds from `start` until the probe first succeeded."""
        self._grace_s = grace_s
        self._probe = probe
        self._missing: str | None = "not asked yet"
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; RuntimeError before `start` and after `stop`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    @property
    def rss_bytes(self) -> int:
        """Resident memory now, in bytes (statm of proc(5))."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def start(self) -> None:
        """Starts the program in a session of its own (Ctrl-C reaches only its owner)."""
        # A bare environment: OTEL_*, proxies and the like must not change what a back end does.
        bare = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.log.parent)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=bare,
                start_new_session=True,
            )
        self._started = time.monotonic()

    def ready(self) -> bool:
        """Asks the probe once. Raises ProgramError if the program has ended."""
        if self.ready_s is not None:
            return True
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        status = self._process.poll()
        if status is not None:
            raise ProgramError(self.describe(f"ended with status {status} before it was ready"))
        self._missing = self._probe()
        if self._missing is None:
            self.ready_s = time.monotonic() - self._started
        return self._missing is None

    def describe(self, what: str) -> str:
        """What happened, where, the end of the log, and the command that repeats it."""
        with self.log.open("rb") as log:
            tail = log.read()[-16384:].decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        lines = [f"{self.name} {what}", f"last answer: {self._missing}", f"end of {self.log}:"]
        lines += [f"  {line}" for line in tail] or ["  (empty)"]
        lines += ["repeat it with:", f"  {shlex.join(self.argv)}"]
        return "\n".join(lines)

    def stop(self) -> None:
        """Asks the program to end, kills it when its grace is over. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""One program of the demo shop: started with a log of its own, polled until it answers, stopped for certain.

Assumes Linux with /proc and util-linux' `setpriv`. Used by `shop.py` only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Nothing of the caller's virtual environment, proxies or language managers reaches the shop's programs.
CLEAN_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
POLL_S = 0.02


class ShopError(Exception):
    """The shop cannot start or stop; the text says which program, why, and what to do."""


class Identity(NamedTuple):
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int


class Process:
    """A program and its log file. `user` (root only) and capabilities are given up before it runs."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        keep: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        wrapper = ["/usr/bin/setpriv"]
        # The kernel sends this when the *thread* that started the program ends, so only the main thread may
        # ask for it.
        if threading.current_thread() is threading.main_thread():
            wrapper.append(f"--pdeathsig={stop_signal.name.removeprefix('SIG')}")
        if user is not None and os.geteuid() == 0:
            wrapper += [
                f"--reuid={user}",
                f"--regid={user if user != 'nobody' else 'nogroup'}",
                "--clear-groups",
            ]
            if keep is not None:
                wrapper += [f"--inh-caps=-all,+{keep}", f"--ambient-caps=-all,+{keep}"]
        with open(log, "ab") as output:
            self._child = subprocess.Popen(
                [*wrapper, "--", *command] if len(wrapper) > 1 else list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd or log.parent,
                env={**CLEAN_ENV, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The program's process id (that of its master where it has several)."""
        return self._child.pid

    def wait_ready(self, answers: Callable[[], bool], deadline: float) -> None:
        """Polls until `answers()`; ShopError with the log's tail if it ends or at `deadline` (monotonic)."""
        while not answers():
            code = self._child.poll()
            if code is not None:
                raise ShopError(f"{self.name} ended with code {code} at start\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ShopError(f"{self.name} does not answer in time\n{self.tail()}")
            time.sleep(POLL_S)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log, indented, for an error message."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(["  " + str(self.log) + ":", *("    " + line for line in text or ["(empty)"])])

    def alive(self) -> bool:
        """Whether the program (its master) still runs."""
        return self._child.poll() is None

    def ask_to_stop(self) -> None:
        """Sends the stop signal to the program itself; it ends its own children."""
        if self.alive():
            self._child.send_signal(self._stop_signal)

    def stop(self, deadline: float) -> bool:
        """Waits until `deadline` (monotonic), then kills the process group; False if that was needed."""
        self.ask_to_stop()
        try:
            self._child.wait(max(0.0, deadline - time.monotonic()))
            return True
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            return False


def identify(pid: int) -> Identity | None:
    """The process with its start time, or None if there is none (zombies count as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def descendants(roots: Iterable[int]) -> list[Identity]:
    """The processes given and all below them. By parent, since PostgreSQL's back ends leave their session."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parent = int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[Identity] = []
    todo = list(roots)
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        identity = identify(pid)
        if identity is not None:
            found.append(identity)
    return found


def rss_kib(pid: int) -> int:
    """Resident memory in KiB, shared pages included; 0 if the process has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0

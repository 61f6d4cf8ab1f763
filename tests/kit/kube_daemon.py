"""One daemon of a test cluster: started with a log file, known again by a file, killed for certain.

A cluster may outlive the process that started it (`make k8s-up`), so a daemon is known by its number and its start time
in a file of its own, and not by a Popen. Assumes Linux and root. Used by kube_node.py and kube_cluster.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.05
STOP_S = 8.0
# Nothing of the caller's virtual environment and proxies reaches the daemons.
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
TAIL_LINES = 15


class KubeError(RuntimeError):
    """The cluster cannot do what was asked; the message says what, which log to read, and what to repeat."""


class Daemon:
    """`argv` with its output in `log`; it is born in the cgroup (version 2) `cgroup`."""

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, state: Path, cgroup: Path) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.log = log
        self._file = state / f"{name}.json"
        self._cgroup = cgroup
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its number, None if it does not run; also of one that another process started."""
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        if self._child is not None:
            self._child.poll()  # else it stays a zombie
        return int(known["pid"]) if started_at(known["pid"]) == known["started"] else None

    def start(self) -> None:
        """Starts it; KubeError if it runs already."""
        if self.pid is not None:
            raise KubeError(f"{self.name} runs already (pid {self.pid})")
        procs = self._cgroup / "cgroup.procs"
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(procs), *self.argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=ENV, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        self._file.write_text(json.dumps({"pid": self._child.pid, "started": started_at(self._child.pid)}))

    def stop(self, *, kill: bool = False) -> None:
        """SIGTERM (or SIGKILL), and SIGKILL when STOP_S are over; nothing if it does not run."""
        end = time.monotonic() + STOP_S
        while (pid := self.pid) is not None:
            late = time.monotonic() > end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill or late else signal.SIGTERM)
            if time.monotonic() > end + STOP_S:
                raise KubeError(self.describe(f"(pid {pid}) does not end, not by SIGKILL either"))
            time.sleep(POLL_S)
        self._file.unlink(missing_ok=True)

    def wait(self, ready: Callable[[], str | None], timeout_s: float) -> None:
        """Until `ready` returns None (else: what is missing). KubeError with the log's end if it ends or is late."""
        end = time.monotonic() + timeout_s
        while (missing := ready()) is not None:
            if self.pid is None:
                raise KubeError(self.describe("ended by itself"))
            if time.monotonic() > end:
                raise KubeError(self.describe(f"is not ready after {timeout_s:.0f} s: {missing}"))
            time.sleep(POLL_S)

    def describe(self, what: str) -> str:
        """What happened, the end of the log, and the command that repeats it."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [f"{self.name} {what}", f"end of {self.log}:"]
        lines += [f"  {line[:400]}" for line in text[-TAIL_LINES:]] or ["  (empty)"]
        return "\n".join([*lines, f"repeat it with: {shlex.join(self.argv)}"])


def started_at(pid: int) -> int | None:
    """Start time of a living process in clock ticks after boot (field 22 of proc(5) stat); None for zombies, too, once
    all their threads have ended (these hold the sockets)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except (OSError, ValueError):
        return None
    return None if fields[0] == "Z" and threads <= 1 else int(fields[19])


def run(argv: Sequence[str | Path], *, stdin: str | None = None, check: bool = True, timeout_s: float = 120.0) -> str:
    """The output of a command that ends; KubeError with its errors and the command if its code is not 0."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=ENV)
    except subprocess.TimeoutExpired:
        raise KubeError(f"no end after {timeout_s:.0f} s: {shlex.join(words)}") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise KubeError(f"{shlex.join(words)} ended with code {done.returncode}: {said}")
    return done.stdout

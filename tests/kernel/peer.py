"""A traffic process, driven by the test: Peer().send(fd, b"...") is one system call in a process of its own.

The agent never reports its own process, and the tests run in the process that loads the programs; so all
traffic comes from peers. Operations: peer_ops.Ops.
"""

import ctypes
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
OPS = Path(__file__).with_name("peer_ops.py")


def compiled(name: str, folder: Path) -> Path:
    """A program of this folder, built from name.c."""
    out, source = folder / name, Path(__file__).with_name(f"{name}.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(out), str(source)], check=True)
    return out


class PeerError(Exception):
    """An operation failed in the traffic process: its name and the error there."""


class Peer:
    """pid: as the kernel programs report it (tgid). Ends with close() or when the test's process ends."""

    def __init__(self, python: str = sys.executable, pass_fds: tuple[int, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [python, str(OPS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pass_fds
        )
        self.pid = self._process.pid

    def start(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Asks without waiting for the result; result() must follow before anything else is asked."""
        assert self._process.stdin
        pickle.dump((name, args, kwargs), self._process.stdin)
        self._process.stdin.flush()

    def result(self) -> Any:
        assert self._process.stdout
        try:
            done, value = pickle.load(self._process.stdout)
        except EOFError:
            raise PeerError(f"the traffic process ended with status {self._process.wait()}") from None
        if not done:
            raise PeerError(value)
        return value

    def borrow(self, fd: int) -> int:
        """A descriptor of this process for a socket of the peer. pidfd_getfd(2)"""
        pidfd = os.pidfd_open(self.pid)
        try:
            SYS_PIDFD_GETFD = 438
            copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            return int(copy)
        finally:
            os.close(pidfd)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.start(name, *args, **kwargs)
            return self.result()

        return call

    def stop(self) -> None:
        """Ends the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

"""The network namespaces of the machine: which there are, and how a thread works in one of them.

A namespace lives while a process, a mount or a descriptor holds it. What is kept here of one (two netlink sockets)
would hold it, too: whoever keeps a Namespace must close it as soon as find() does not list it any more. namespaces(7).
"""

import ctypes
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zerospan.exporter.source.netlink import Changes, Netlink

CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71
SIOCGSKNS = 0x894C
MOUNT = re.compile(r"^\d+ \d+ \S+ net:\[(\d+)\] (\S+) .* - nsfs ")

libc = ctypes.CDLL(None, use_errno=True)


def find() -> dict[int, str]:
    """Inode number -> a path that leads to it, of each network namespace that a process is in or a mount holds."""
    out: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            path = f"/proc/{entry.name}/ns/net"
            try:
                link = os.readlink(path)
            except OSError:
                continue  # gone, or not ours to see
            if link.startswith("net:["):
                out.setdefault(int(link[5:-1]), path)
    for inode, path in mounts().items():
        out.setdefault(inode, path)
    return out


def used_by(cgroups: Iterable[Path]) -> dict[int, str]:
    """Inode number -> a path that leads to it, of each network namespace that a process of these control groups (of
    version 2), or of those below them, is in.
    """
    out: dict[int, str] = {}
    for top in cgroups:
        for folder, _, _ in os.walk(top):
            try:
                pids = Path(folder, "cgroup.procs").read_text().split()
            except OSError:
                continue  # gone
            for pid in pids:
                path = f"/proc/{pid}/ns/net"
                try:
                    out.setdefault(os.stat(path).st_ino, path)
                except OSError:
                    continue  # it has ended, or is not of our namespace of processes ("0")
    return out


def mounts() -> dict[int, str]:
    """Inode number -> mount point of the namespaces that are held by a mount (`ip netns`, container runtimes)."""
    out = {}
    with open("/proc/self/mountinfo", errors="replace") as f:
        for line in f:
            if found := MOUNT.match(line):
                out[int(found[1])] = found[2]
    return out


def switch(fd: int) -> None:
    """Moves the calling thread into a network namespace. setns(2)"""
    if libc.setns(fd, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def of_thread() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """The calling thread works in another namespace meanwhile. If it cannot come back, it must not go on: OSError."""
    home = of_thread()
    try:
        switch(fd)
        try:
            yield
        finally:
            switch(home)
    finally:
        os.close(home)


class Namespace:
    """A handle of one namespace. OSError if it is gone, or is not the one that `inode` says."""

    def __init__(self, inode: int, path: str, name: str = "") -> None:
        self.inode, self.name = inode, name
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_ino != inode:
                raise FileNotFoundError(f"{path} is another namespace now")
            with inside(fd):
                self.netlink = Netlink()
                try:
                    self.changes = Changes()
                except OSError:
                    self.netlink.close()
                    raise
        finally:
            os.close(fd)
        cookie = self.netlink.socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        self.cookie = int(struct.unpack("=Q", cookie)[0])

    @contextmanager
    def descriptor(self) -> Iterator[int]:
        """A descriptor of the namespace, for as long as the block runs. ioctl SIOCGSKNS"""
        fd = fcntl.ioctl(self.netlink.socket.fileno(), SIOCGSKNS)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace while the block runs."""
        with self.descriptor() as fd, inside(fd):
            yield

    def close(self) -> None:
        """Lets go of the namespace. May be called twice."""
        self.netlink.close()
        self.changes.close()


def initial() -> int:
    """Inode number of the namespace of process 1, else of this process."""
    for path in ("/proc/1/ns/net", "/proc/self/ns/net"):
        try:
            return os.stat(path).st_ino
        except OSError:
            continue
    return 0


def name_of(path: str) -> str:
    """What `ip netns` and container runtimes call a namespace that is mounted at `path`; else empty."""
    at = Path(path)
    return at.name if at.parent.name == "netns" else ""

"""Reading /proc: few files, each with a bound, none that can wait for the process. Called by describe.py.

Kernels since 4.17 read argv and environ from anonymous memory only, so a process cannot make its reader wait
on a file system of its own. What cannot be read (gone, no rights) is empty. `root` is another place in tests.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from zerospan.exporter.process.text import decode

CMDLINE_MAX = 64 << 10  # bytes; Java's class paths are long
ENVIRON_MAX = 128 << 10  # Kubernetes sets variables for each service
ARGS_MAX = 1024
LINK_MAX = 1024  # characters
DELETED = " (deleted)"
TICKS = os.sysconf("SC_CLK_TCK")


class Life(NamedTuple):
    """What tells a process from a later one of the same number."""

    inode: int  # of its folder in /proc: equal inodes, the same process
    start_ticks: int  # clock ticks since boot; 0 if not known


class Stat(NamedTuple):
    """Of /proc/PID/stat and its folder. state: "R", "S", ..., "Z"; "" if not known."""

    life: Life
    state: str
    parent: int
    uid: int  # effective


def read(path: str, limit: int) -> bytes:
    """At most `limit` bytes; b"" if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def stat(folder: str) -> Stat | None:
    """Of /proc/PID; None if there is no such process."""
    try:
        at = os.stat(folder)
    except OSError:
        return None
    # The name stands in parentheses and may hold any character: count from the last one (proc_pid_stat(5)).
    fields = read(f"{folder}/stat", 1024).rpartition(b")")[2].split()
    if len(fields) < 20 or not (fields[1].isdigit() and fields[19].isdigit()):
        return Stat(Life(at.st_ino, 0), "", 0, at.st_uid)
    return Stat(Life(at.st_ino, int(fields[19])), decode(fields[0]), int(fields[1]), at.st_uid)


def link(path: str) -> str:
    """The target of exe or cwd; "" if it cannot be read. A file that was replaced keeps its name."""
    try:
        target = decode(os.readlink(path.encode()))
    except OSError:
        return ""
    return target.removesuffix(DELETED).removeprefix("(unreachable)")[:LINK_MAX]


def command_line(folder: str) -> tuple[str, ...]:
    """The arguments, or the title that the process has written over them as the only one."""
    raw = read(f"{folder}/cmdline", CMDLINE_MAX)
    args = raw.rstrip(b"\0").split(b"\0", ARGS_MAX)
    if len(args) > 1 and (len(raw) == CMDLINE_MAX or len(args) > ARGS_MAX):
        args.pop()  # cut: half a path is another path
    return tuple(map(decode, args)) if raw else ()


def users(root: str) -> dict[int, str]:
    """User names of the host (of process 1, if it can be asked), by uid."""
    raw = read(f"{root}/1/root/etc/passwd", 1 << 20) or read("/etc/passwd", 1 << 20)
    found: dict[int, str] = {}
    for line in decode(raw).split("\n"):
        fields = line.split(":")
        if len(fields) > 3 and fields[2].isascii() and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found


def machine_id(root: str) -> str:
    """The host's /etc/machine-id (of process 1, if it can be asked); "" if there is none."""
    for path in (f"{root}/1/root/etc/machine-id", "/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = decode(read(path, 64)).strip()
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return text
    return ""


def alive(tgids: Iterable[int], root: str = "/proc") -> set[int]:
    """Those of the processes that exist. Threads are not taken for processes, zombies count as existing."""
    try:
        running = {int(name) for name in os.listdir(root) if name.isascii() and name.isdigit()}
    except OSError:
        return set(tgids)  # nothing is known: forget nobody
    return running.intersection(tgids)

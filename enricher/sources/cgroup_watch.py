"""The tree of control groups as it changes: inotify on its folders, so that a new container is known at once.

inotify because it needs no rights, works in v1 and v2 and through a mount in another container (cgroupfs has one inode
for each group), and is as fast as a BPF program: see docs/decisions.md for what was measured. A folder is watched first
and listed then, so that a group made in between is seen. Where the kernel loses events (IN_Q_OVERFLOW) or has no more
watches, the tree is compared again, and that is counted. inotify(7). Used by containers.py; one thread.
"""

import ctypes
import errno
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000
WANTED = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
EVENT = struct.Struct("=iIII")
READ_BYTES = 1 << 18
COMPARE_S = 60.0  # however quiet it is
COMPARE_BLIND_S = 1.0  # while some folders have no watch, or one of the tops is missing; after a failure, too
libc = ctypes.CDLL(None, use_errno=True)

Told = Callable[[str], None]


def tops(sys: str) -> list[str]:
    """Where to look in this /sys: v2 alone, or, where v1 is mounted, one of its hierarchies and v2 beside it.

    All of v1's controllers have the same groups, as far as container runtimes make them.
    """
    base = f"{sys}/fs/cgroup"
    if os.path.exists(f"{base}/cgroup.controllers"):
        return [base]
    found = [f"{base}/{name}" for name in ("unified",) if os.path.isdir(f"{base}/{name}")]
    for name in ("pids", "memory", "cpu", "systemd"):
        if os.path.isdir(f"{base}/{name}"):
            return [*found, f"{base}/{name}"]
    return found


class CgroupWatch:
    """came(path) for each folder below the tops, then as they come; went(path) when one is gone. Both in the thread of
    the watch; paths begin with a top. They must not raise.
    """

    def __init__(self, folders: Iterable[str], came: Told, went: Told, *, max_watches: int = 65536) -> None:
        self.tops = tuple(folders)
        self.overflows = 0  # times that the kernel lost events
        self.unwatched = 0  # folders without a watch now
        self.in_sync = threading.Event()  # each top was read once
        self.heard = time.monotonic()  # when the tree was last known to be whole
        self.failures = 0  # looks and callbacks that raised: bugs
        self.failing = False  # the last look did
        self._came, self._went = came, went
        self._max = max_watches
        self._watches: dict[int, str] = {}
        self._known: dict[str, int] = {}  # folder -> watch, -1: none
        self.error = ""  # why there is no inotify: the tree is compared every second then
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:  # fs.inotify.max_user_instances
            self.error = f"inotify: {os.strerror(ctypes.get_errno())}"
            log.warning("cgroups: %s; the tree is read every second", self.error)
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="cgroups", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and gives back all watches."""
        self._stop = True
        os.write(self._wake_out, b"x")
        if self._thread.ident is not None:
            self._thread.join(2)
        if not self._thread.is_alive():
            for fd in (self._fd, self._wake_in, self._wake_out):
                if fd >= 0:
                    os.close(fd)

    def folders(self) -> int:
        """Folders that are known now."""
        return len(self._known)

    def _run(self) -> None:
        poll = select.poll()
        if self._fd >= 0:
            poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        compared = float("-inf")
        while not self._stop:
            blind = self.unwatched > 0 or any(top not in self._known for top in self.tops)
            due = compared + (COMPARE_BLIND_S if blind or self.failing else COMPARE_S) - time.monotonic()
            try:
                if due <= 0:
                    compared = time.monotonic()
                    self._compare()
                    self.failing = False
                    continue
                poll.poll(int(due * 1000) + 1)
                if not self._read():
                    self.overflows += 1
                    log.warning("cgroups: the kernel lost events; the tree is read again")
                    compared = float("-inf")
                elif not (blind or self.failing):
                    self.heard = time.monotonic()
            except Exception:
                self.failing = True  # what this look did not find, the next one does
                self.failures += 1
                log.exception("cgroups: a look at the tree failed: a bug")
                select.select([self._wake_in], [], [], COMPARE_BLIND_S)

    def _tell(self, told: Told, path: str) -> None:
        try:
            told(path)
        except Exception:
            self.failures += 1
            log.exception("cgroups: %s could not be told: a bug", path)

    def _compare(self) -> None:
        """What is there now, and what is no more."""
        gone = [path for path in self._known if not os.path.isdir(path)]
        for path in sorted(gone, reverse=True):  # a folder after those in it
            self._remove(path)
        for top in self.tops:
            self._add(top)
        self.unwatched = sum(1 for watch in self._known.values() if watch < 0)
        self.heard = time.monotonic()
        self.in_sync.set()

    def _read(self) -> bool:
        """Handles what has happened; False if events were lost."""
        whole = True
        while not self._stop and self._fd >= 0:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            at = 0
            while at + EVENT.size <= len(data):
                watch, mask, _, length = EVENT.unpack_from(data, at)
                name = os.fsdecode(data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0"))
                at += EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    whole = False
                elif mask & IN_IGNORED:
                    path = self._watches.pop(watch, "")
                    if self._known.get(path) == watch:
                        self._remove(path)
                elif mask & IN_ISDIR and watch in self._watches and name:
                    path = f"{self._watches[watch]}/{name}"
                    if mask & (IN_CREATE | IN_MOVED_TO):
                        self._add(path)
                    elif mask & IN_DELETE:
                        self._remove(path)  # it was empty, and what was in it has been told before
                    else:
                        self._remove_all(path)
        return whole

    def _add(self, top: str) -> None:
        """A folder and all in it."""
        todo = [top]
        while todo:
            path = todo.pop()
            if self._known.get(path, -1) < 0:
                new = path not in self._known
                watch = -1
                if len(self._watches) < self._max and self._fd >= 0:
                    watch = libc.inotify_add_watch(self._fd, os.fsencode(path), WANTED)
                    if watch < 0 and ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR):
                        continue  # gone again
                if watch < 0 and not os.path.isdir(path):
                    continue
                if watch >= 0:
                    old = self._watches.get(watch)
                    if old is not None and old != path and self._known.pop(old, None) is not None:
                        self._tell(self._went, old)  # renamed before we looked
                    self._watches[watch] = path
                else:
                    self.unwatched += new
                self._known[path] = watch
                if new:
                    self._tell(self._came, path)
            try:
                with os.scandir(path) as entries:
                    todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue

    def _remove(self, path: str) -> None:
        watch = self._known.pop(path, None)
        if watch is None:
            return
        if watch >= 0 and self._watches.get(watch) == path:
            del self._watches[watch]
            libc.inotify_rm_watch(self._fd, watch)  # it has gone with its folder: EINVAL
        self._tell(self._went, path)

    def _remove_all(self, path: str) -> None:
        """A folder that was renamed (v1), with all in it."""
        for known in sorted((k for k in self._known if k.startswith(path + "/")), reverse=True):
            self._remove(known)
        self._remove(path)

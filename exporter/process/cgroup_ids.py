"""Where a control group of version 2 is, by its id: so that a process that has ended is still known by its container.

The kernel's records tell the id (bpf_get_current_cgroup_id), which is its inode number, never used twice, and with that
open_by_handle_at(2) finds its path on any mount of cgroup2: needs CAP_DAC_READ_SEARCH. Called by describe.py.
"""

import ctypes
import os
import re
import struct
import sys

from zerospan.exporter.process import cgroup

FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
HANDLE = struct.Struct("=IiQ")  # struct file_handle
CACHE = 8192
MOUNT = re.compile(r"^\d+ \d+ \S+ (\S+) (\S+) .* - cgroup2 ", re.MULTILINE)
libc = ctypes.CDLL(None, use_errno=True)


class CgroupIds:
    """proc: another /proc. Never raises: what cannot be found is an empty Place."""

    def __init__(self, proc: str = "/proc") -> None:
        self._mount = _mount(proc)
        self._known: dict[int, cgroup.Place] = {}

    def place(self, cgroup_id: int) -> cgroup.Place:
        """What the group's path says; empty if there is no such group any more, or no right to ask."""
        found = self._known.get(cgroup_id)
        if found is None:
            path = self._path(cgroup_id)
            if not path:
                return cgroup.Place()  # not kept: rights and mounts do not change, but it costs little
            if len(self._known) >= CACHE:
                del self._known[next(iter(self._known))]
            found = self._known[cgroup_id] = cgroup.place(path)
        return found

    def _path(self, cgroup_id: int) -> str:
        if not self._mount or not 0 < cgroup_id < 1 << 64:
            return ""
        try:
            mount = os.open(self._mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            handle = HANDLE.pack(8, FILEID_KERNFS, cgroup_id)
            fd = libc.open_by_handle_at(mount, handle, os.O_PATH | os.O_CLOEXEC)
            if fd < 0:
                return ""
            try:
                return os.fsencode(os.readlink(f"/proc/self/fd/{fd}")).decode("utf-8", "replace")
            except OSError:
                return ""
            finally:
                os.close(fd)
        finally:
            os.close(mount)


def _mount(proc: str) -> str:
    """A mount point of cgroup2, that of the whole tree if there is one."""
    try:
        with open(f"{proc}/self/mountinfo", encoding=sys.getfilesystemencoding(), errors="surrogateescape") as f:
            found = MOUNT.findall(f.read())
    except OSError:
        return ""
    found.sort(key=lambda mount: mount[0] != "/")
    return str(found[0][1]).replace("\\040", " ") if found else ""

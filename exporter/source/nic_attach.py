"""How the programs of bpf/nic.bpf.c get to an interface: by tcx, by clsact, or as a filter of a packet socket.

Nothing here decides where; nic.py does. Each way gives something with close(). The caller's thread is in the
interface's namespace. Errors are OSError.
"""

import errno
import os
import re
import socket
import struct
from pathlib import Path
from typing import Protocol

from zerospan.exporter.source import bpf
from zerospan.exporter.source.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    Netlink,
    attribute,
    attributes,
    text,
)

WAYS = ("tcx", "clsact", "packet")
BPF_TCX_INGRESS, BPF_TCX_EGRESS = 46, 47
BPF_F_BEFORE = 1 << 3  # without a program to stand before: the first of all
TC_H_CLSACT, TC_H_INGRESS, TC_H_EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT = 6, 7, 8, 1
ETH_P_ALL = 3
SO_ATTACH_BPF = 50
TCMSG = struct.Struct("=BxxxiIII")
OURS = re.compile(r"zerospan:(\d+)")


class Attachment(Protocol):
    """What holds the programs at an interface."""

    def close(self) -> None: ...


class Tcx:
    """Two BPF links; the kernel takes them back when their descriptors are closed, however this process ends."""

    def __init__(self, programs: bpf.Object, ifindex: int, ethernet: bool) -> None:
        self._fds: list[int] = []
        try:
            for name, where in ((program("in", ethernet), BPF_TCX_INGRESS), (program("out", ethernet), BPF_TCX_EGRESS)):
                self._fds.append(bpf.attach_interface(programs.program_fd(name), ifindex, where, BPF_F_BEFORE))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class Clsact:
    """Two filters below the qdisc clsact. They outlive a process that is killed; the next agent removes them."""

    def __init__(self, programs: bpf.Object, ifindex: int, ethernet: bool) -> None:
        self._ifindex = ifindex
        self._netlink = Netlink()
        self._made: list[tuple[int, int, int]] = []
        self._qdisc = False
        try:
            self._qdisc = self._make_qdisc()
            for parent in (TC_H_INGRESS, TC_H_EGRESS):
                for owner, handle, info in self._filters(parent):
                    if owner != os.getpid() and not Path(f"/proc/{owner}").exists():
                        self._delete(parent, handle, info)
                which = program("in" if parent == TC_H_INGRESS else "out", ethernet)
                self._add(parent, programs.program_fd(which))
        except OSError:
            self.close()
            raise

    def _make_qdisc(self) -> bool:
        body = TCMSG.pack(0, self._ifindex, 0xFFFF0000, TC_H_CLSACT, 0) + attribute(TCA_KIND, b"clsact\0")
        try:
            self._netlink.request(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)
        except FileExistsError:
            return False
        return True

    def _add(self, parent: int, fd: int) -> None:
        before = {(handle, info) for _, handle, info in self._filters(parent)}
        options = (
            attribute(TCA_BPF_FD, struct.pack("=I", fd))
            + attribute(TCA_BPF_NAME, f"zerospan:{os.getpid()}\0".encode())
            + attribute(TCA_BPF_FLAGS, struct.pack("=I", TCA_BPF_FLAG_ACT_DIRECT))
        )
        rest = attribute(TCA_KIND, b"bpf\0") + attribute(TCA_OPTIONS, options)
        for priority in (1, 0):  # before all others, else where the kernel puts it
            info = priority << 16 | socket.htons(ETH_P_ALL)
            try:
                body = TCMSG.pack(0, self._ifindex, 0, parent, info) + rest
                self._netlink.request(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)
                break
            except OSError as e:
                if not priority or e.errno not in (errno.EEXIST, errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        after = [(handle, info) for owner, handle, info in self._filters(parent) if owner == os.getpid()]
        self._made += [(parent, handle, info) for handle, info in after if (handle, info) not in before]

    def _filters(self, parent: int) -> list[tuple[int, int, int]]:
        """(process, handle, priority and protocol) of the filters that agents like this one made."""
        out = []
        for ours, handle, info in self._all(parent):
            if ours:
                out.append((int(ours[1]), handle, info))
        return out

    def _all(self, parent: int) -> list[tuple[re.Match[str] | None, int, int]]:
        out = []
        body = TCMSG.pack(0, self._ifindex, 0, parent, 0)
        for _, content in self._netlink.request(RTM_GETTFILTER, NLM_F_DUMP, body):
            _, _, handle, _, info = TCMSG.unpack_from(content)
            name = text(attributes(attributes(content[TCMSG.size :]).get(TCA_OPTIONS, b"")).get(TCA_BPF_NAME))
            if handle:
                out.append((OURS.fullmatch(name), handle, info))
        return out

    def _delete(self, parent: int, handle: int, info: int) -> None:
        body = TCMSG.pack(0, self._ifindex, handle, parent, info) + attribute(TCA_KIND, b"bpf\0")
        self._netlink.request(RTM_DELTFILTER, NLM_F_ACK, body)

    def close(self) -> None:
        """Takes the filters away, and the qdisc if it was made here and nobody else uses it."""
        try:
            for parent, handle, info in self._made:
                self._delete(parent, handle, info)
            self._made = []
            if self._qdisc and not self._all(TC_H_INGRESS) and not self._all(TC_H_EGRESS):
                body = TCMSG.pack(0, self._ifindex, 0xFFFF0000, TC_H_CLSACT, 0)
                self._netlink.request(RTM_DELQDISC, NLM_F_ACK, body)
        except OSError:
            pass  # the interface is gone, and its filters with it
        finally:
            self._netlink.close()


class Packet:
    """A packet socket whose filter looks at each packet and keeps none."""

    def __init__(self, programs: bpf.Object, name: str, ethernet: bool) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            fd = programs.program_fd(program("tap", ethernet))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, struct.pack("=i", fd))
            self._socket.bind((name, ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


def program(which: str, ethernet: bool) -> str:
    """Name in bpf/nic.bpf.c: which = "in", "out" or "tap"."""
    return f"zs_nic_{which}" if ethernet else f"zs_nic_raw_{which}"


def needed(way: str, ethernet: bool) -> tuple[str, ...]:
    """The programs that a way attaches."""
    return tuple(program(which, ethernet) for which in (("tap",) if way == "packet" else ("in", "out")))


def attach(way: str, programs: bpf.Object, ifindex: int, name: str, ethernet: bool) -> Attachment:
    """Attaches in one of the WAYS to an interface of the calling thread's namespace."""
    if way == "tcx":
        return Tcx(programs, ifindex, ethernet)
    if way == "clsact":
        return Clsact(programs, ifindex, ethernet)
    return Packet(programs, name, ethernet)

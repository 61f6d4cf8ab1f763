"""The ports of the agent's own connections, for programs that see only packets: its own traffic makes no points.

Read from /proc every second: a connection that lives shorter may be told. Its request keys are then known to nobody,
since the hooks at system calls leave the agent out by its process id. proc(5).
"""

import os
import socket
import struct

from zerospan.exporter.source import bpf
from zerospan.exporter.source.netns import SO_NETNS_COOKIE

MAP = "zs_nic_owns"


class Ports:
    """Keeps the map up to date; refresh() is called by one thread."""

    def __init__(self, maps: bpf.Object) -> None:
        self._maps = maps
        self._told: set[int] = set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            self._cookie = int(struct.unpack("=Q", s.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])

    def refresh(self) -> None:
        """Reads the ports anew."""
        now = local_ports()
        for port in self._told - now:
            self._change(port, False)
        for port in now - self._told:
            self._change(port, True)

    def _change(self, port: int, there: bool) -> None:
        key = struct.pack("=QH6x", self._cookie, port)
        try:
            if there:
                self._maps.update(MAP, key, b"\1")
                self._told.add(port)
            else:
                self._told.discard(port)
                self._maps.delete(MAP, key)
        except OSError:
            pass  # the map is bounded and forgets by itself


def local_ports() -> set[int]:
    """Local ports of this process's TCP sockets."""
    mine = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            link = os.readlink(entry.path)
        except OSError:
            continue
        if link.startswith("socket:["):
            mine.add(link[8:-1])
    out = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}") as f:
                next(f, "")
                for line in f:
                    columns = line.split()
                    if columns[9] in mine:
                        out.add(int(columns[1].rpartition(":")[2], 16))
        except OSError:
            continue
    return out

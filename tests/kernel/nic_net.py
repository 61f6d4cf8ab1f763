"""Two nodes that a VXLAN joins, a pod on each, all network namespaces of their own; sockets in them, and captures.

    pod1 eth0 -- vethp br0 vx0 (node1) eth0 -- eth0 (node2) vx0 br0 vethp -- eth0 pod2

Everything belongs to the test process: a socket stays in the namespace in which it was made. The captures are what the
records are compared with: they parse for themselves.
"""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from zerospan.exporter.source.netns import inside

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, PACKET_VNET_HDR = 263, 6, 15
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
FIN, SYN, RST, ACK = 1, 2, 4, 16
SNAPLEN = 65600 + 200


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr}"


def command(netns: str, *args: str, ok: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(["ip", "netns", "exec", netns, *args], capture_output=True, text=True, input=stdin)
    assert done.returncode == 0 or not ok, f"{args}: {done.stderr}"
    return done.stdout


@dataclass
class Segment:
    """A TCP segment with bytes or a flag, as it stood at an interface."""

    time_ns: int
    egress: bool
    flow: tuple[str, int, str, int]  # of the inner packet
    seq: int
    ack: int
    length: int
    flags: int
    packets: int
    vni: int | None = None
    outer: tuple[str, str] | None = None


@dataclass
class Tap:
    """A packet capture of one interface."""

    sock: socket.socket
    segments: list[Segment] = field(default_factory=list)

    def read(self) -> "list[Segment]":
        while True:
            try:
                frame, address = self.sock.recvfrom(SNAPLEN)
            except BlockingIOError:
                missed = struct.unpack("II", self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
                assert missed == 0, "the capture missed packets"
                return self.segments
            self._add(frame[10:], struct.unpack_from("<BBHH", frame)[3], address[2] == PACKET_OUTGOING)

    def _add(self, frame: bytes, gso_size: int, egress: bool) -> None:
        vni, outer = None, None
        at = 14
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == struct.pack("!H", 4789):
            outer = (socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]))
            vni = int.from_bytes(frame[46:49], "big")
            frame = frame[50:]
        if frame[12:14] == b"\x08\x00" and frame[at + 9] == 6:
            ends = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
            total = int.from_bytes(frame[16:18], "big") - 20
            at += 20
        elif frame[12:14] == b"\x86\xdd" and frame[at + 6] == 6:
            ends = socket.inet_ntop(10, frame[22:38]), socket.inet_ntop(10, frame[38:54])
            total = int.from_bytes(frame[18:20], "big")
            at += 40
        else:
            return
        source, destination, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", frame, at)
        length = total - (offset >> 4) * 4
        packets = -(-length // gso_size) if gso_size and length else 1
        flow = (ends[0], source, ends[1], destination)
        self.segments.append(Segment(0, egress, flow, seq, ack, length, flags, packets, vni, outer))

    def isns(self, port: int) -> tuple[int, int]:
        """Of SYN and SYN-ACK of the connection to a port."""
        (syn,) = {s.seq for s in self.read() if s.flags & SYN and not s.flags & ACK and s.flow[3] == port}
        (answer,) = {s.seq for s in self.segments if s.flags & SYN and s.flags & ACK and s.flow[1] == port}
        return syn, answer

    def runs(self, port: int) -> "list[Run]":
        """By the plainest rule, for connections without loss: bytes of one direction until the other one has some."""
        out: list[Run] = []
        for s in self.read():
            if port not in (s.flow[1], s.flow[3]) or not s.length:
                continue
            if not out or out[-1].flow != s.flow:
                out.append(Run(s.flow, s.egress, s.seq, vni=s.vni, outer=s.outer))
            run = out[-1]
            run.bytes += s.length
            run.packets += s.packets
        return out


@dataclass
class Run:
    flow: tuple[str, int, str, int]
    egress: bool
    seq: int
    bytes: int = 0
    packets: int = 0
    vni: int | None = None
    outer: tuple[str, str] | None = None


class Net:
    """Makes the namespaces; close() removes them."""

    def __init__(self, mtu: int = 1450) -> None:
        tag = f"nic{os.getpid()}-{threading.get_native_id() % 1000}"
        self.node = [f"{tag}-n1", f"{tag}-n2"]
        self.pod = [f"{tag}-p1", f"{tag}-p2"]
        self.address = ["10.244.77.11", "10.244.77.12"]
        self.address6 = ["fd77::11", "fd77::12"]
        self.underlay = ["172.16.77.1", "172.16.77.2"]
        self._open: list[socket.socket] = []
        try:
            self._make(mtu)
        except BaseException:
            self.close()
            raise

    def _make(self, mtu: int) -> None:
        for name in (*self.node, *self.pod):
            ip("netns", "add", name)
            command(name, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
            ip("-n", name, "link", "set", "lo", "up")
        n1, n2 = self.node
        ip("-n", n1, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", n2)
        for i, n in enumerate(self.node):
            ip("-n", n, "addr", "add", f"{self.underlay[i]}/24", "dev", "eth0")
            ip("-n", n, "link", "set", "eth0", "up")
            vxlan = ("type", "vxlan", "id", "42", "dstport", "4789", "local", self.underlay[i])
            ip("-n", n, "link", "add", "vx0", *vxlan, "remote", self.underlay[1 - i], "dev", "eth0")
            ip("-n", n, "link", "add", "br0", "type", "bridge")
            for port in ("vx0", "vethp"):
                if port == "vethp":
                    ip("-n", n, "link", "add", "vethp", "type", "veth", "peer", "name", "eth0", "netns", self.pod[i])
                ip("-n", n, "link", "set", port, "master", "br0")
                ip("-n", n, "link", "set", port, "up")
            ip("-n", n, "link", "set", "br0", "up")
            ip("-n", self.pod[i], "addr", "add", f"{self.address[i]}/24", "dev", "eth0")
            ip("-n", self.pod[i], "addr", "add", f"{self.address6[i]}/64", "dev", "eth0", "nodad")
            ip("-n", self.pod[i], "link", "set", "eth0", "mtu", str(mtu))
            ip("-n", self.pod[i], "link", "set", "eth0", "up")

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.node, *self.pod)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            with inside(fd):
                yield
        finally:
            os.close(fd)

    def tap(self, name: str, interface: str) -> Tap:
        with self.within(name):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.bind((interface, ETH_P_ALL))
        sock.setblocking(False)
        self._open.append(sock)
        return Tap(sock)

    def connect(self, client: str, server: str, address: str) -> "Connection":
        """A connection from one namespace to another."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.within(server):
            listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((address, 0))
        listener.listen()
        with self.within(client):
            ours = socket.socket(family, socket.SOCK_STREAM)
        ours.settimeout(20)
        ours.connect(listener.getsockname()[:2])
        theirs = listener.accept()[0]
        theirs.settimeout(20)
        listener.close()
        self._open += [ours, theirs]
        return Connection(ours, theirs)

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        for name in (*self.pod, *self.node):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@dataclass
class Connection:
    client: socket.socket
    server: socket.socket

    @property
    def port(self) -> int:
        return int(self.server.getsockname()[1])

    def exchange(self, request: int, answer: int) -> None:
        """So many bytes each way, the second after the first has arrived."""
        for sender, receiver, size in ((self.client, self.server, request), (self.server, self.client, answer)):
            thread = threading.Thread(target=sender.sendall, args=(os.urandom(size),))
            thread.start()
            left = size
            while left:
                got = len(receiver.recv(min(left, 1 << 20)))
                assert got
                left -= got
            thread.join()

    def close(self) -> None:
        """The client first, in order."""
        self.client.close()
        assert self.server.recv(1) == b""
        self.server.close()

"""What went over the loopback device: an AF_PACKET capture of one TCP port, for comparison with the records.

Loopback hands a packet to the capture's socket while it is being sent: what was sent before a read is there.
"""

import ctypes
import socket
import struct
from dataclasses import dataclass, field

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
SOL_PACKET, PACKET_STATISTICS = 263, 6
PACKET_OUTGOING = 4
FIN, SYN, RST, ACK = 1, 2, 4, 16
SNAPLEN = 2048

Flow = tuple[int, int]  # source port, destination port


def port_filter(port: int) -> bytes:
    """Classic BPF: TCP over IPv4 or IPv6 whose source or destination port is `port`; SNAPLEN bytes of it."""
    return b"".join(
        struct.pack("=HBBI", *row)
        for row in (
            (0x28, 0, 0, 12),  # ethertype
            (0x15, 0, 7, 0x0800),
            (0x30, 0, 0, 23),
            (0x15, 0, 12, 6),
            (0xB1, 0, 0, 14),  # x = length of the IPv4 header
            (0x48, 0, 0, 14),
            (0x15, 8, 0, port),
            (0x48, 0, 0, 16),
            (0x15, 6, 7, port),
            (0x15, 0, 6, 0x86DD),
            (0x30, 0, 0, 20),
            (0x15, 0, 4, 6),
            (0x28, 0, 0, 54),
            (0x15, 1, 0, port),
            (0x28, 0, 0, 56),
            (0x15, 0, 1, port),
            (0x06, 0, 0, SNAPLEN),
            (0x06, 0, 0, 0),
        )
    )


@dataclass
class Segment:
    seq: int
    length: int
    flags: int
    payload: bytes


@dataclass
class Wire:
    """Segments of a port by flow, as they were sent."""

    port: int
    flows: dict[Flow, list[Segment]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)  # a body of 64 MB, not read yet
        program = port_filter(self.port)
        buffer = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        self._sock.bind(("lo", ETH_P_ALL))
        self._sock.setblocking(False)

    def read(self) -> "Wire":
        """Takes in all that was sent until now."""
        while True:
            try:
                frame, address = self._sock.recvfrom(SNAPLEN)
            except BlockingIOError:
                return self
            if address[2] == PACKET_OUTGOING:  # each packet passes the loopback device twice
                self._add(frame)

    def _add(self, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x00":
            total = struct.unpack_from("!H", frame, 16)[0] - (frame[14] & 15) * 4
            tcp = frame[14 + (frame[14] & 15) * 4 :]
        else:
            total = struct.unpack_from("!H", frame, 18)[0]
            tcp = frame[54:]
        source, destination, seq = struct.unpack_from("!HHI", tcp)
        head = (tcp[12] >> 4) * 4
        self.flows.setdefault((source, destination), []).append(
            Segment(seq, total - head, tcp[13], tcp[head : min(total, len(tcp))])
        )

    def flow(self, source: int, destination: int) -> list[Segment]:
        return self.flows.get((source, destination), [])

    def isns(self, client_port: int) -> tuple[int, int]:
        """Initial sequence numbers of the connecting and the accepting side: of SYN and SYN-ACK."""
        (syn,) = {s.seq for s in self.flow(client_port, self.port) if s.flags & SYN}
        (syn_ack,) = {s.seq for s in self.flow(self.port, client_port) if s.flags & SYN}
        return syn, syn_ack

    def starts(self, source: int, destination: int) -> set[int]:
        """Sequence numbers at which segments with data begin."""
        return {s.seq for s in self.flow(source, destination) if s.length}

    def bytes_at(self, source: int, destination: int, seq: int, n: int) -> bytes:
        """The n bytes at a sequence number; fewer where the capture has a hole or was cut by SNAPLEN."""
        out = b""
        for segment in sorted(self.flow(source, destination), key=lambda s: (s.seq - seq) & 0xFFFFFFFF):
            if len(out) >= n:
                break
            into = (seq + len(out) - segment.seq) & 0xFFFFFFFF
            if into < len(segment.payload):
                out += segment.payload[into : into + n - len(out)]
        if len(out) < n:  # a segment that began before seq sorts last
            for segment in self.flow(source, destination):
                into = (seq + len(out) - segment.seq) & 0xFFFFFFFF
                if into < len(segment.payload) and len(out) < n:
                    out += segment.payload[into : into + n - len(out)]
        return out

    def total(self, source: int, destination: int) -> int:
        """Bytes of payload that were sent, each counted once."""
        ends = [(s.seq + s.length) & 0xFFFFFFFF for s in self.flow(source, destination) if s.length]
        isn = next(s.seq for s in self.flow(source, destination) if s.flags & SYN)
        return max(((end - isn - 1) & 0xFFFFFFFF for end in ends), default=0)

    def dropped(self) -> int:
        """Packets that the capture missed since the last call: must be 0 for a comparison to hold."""
        return int(struct.unpack("II", self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1])

    def stop(self) -> None:
        self._sock.close()

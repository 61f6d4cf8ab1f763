"""What the kernel programs at network interfaces would write: packets in, runs out, in Python.

A second implementation of what bpf/include/zs_abi.h says of struct zs_nic, so that tests feed what a
conversation gives there. Used by test_points*.py and the fuzzer. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine_wire import ACCEPTING, ALL, CONNECTING, End, Kernel, Wire, packed

EGRESS, ENDS, RESET = 1, 2, 4  # enum zs_nic_flags
VXLAN = 1  # enum zs_tunnel
MSS = 1448


@dataclass
class Run:
    """What a kernel program keeps of the current run of a connection."""

    from_client: bool
    seq: int
    bytes: int = 0
    packets: int = 0
    retransmits: int = 0
    end: int = 0
    open: bool = True


@dataclass
class Nic:
    """An interface where a program is attached. out: the request's packets leave by it."""

    kernel: Kernel
    cookie: int
    ifindex: int
    name: str
    role: str
    out: bool
    inside: bool = False
    isns: bool = True  # the programs know the initial sequence numbers
    tunnel: int = 0
    vni: int = 0
    outer: tuple[str, str] = ("", "")  # of packets of the client, of the server
    addresses: tuple[tuple[str, int], tuple[str, int]] | None = None  # after NAT: client, server
    runs: dict[int, Run] = field(default_factory=dict)  # by id of the wire

    @property
    def told(self) -> tuple[int, int, str, str, str, str, str, bool]:
        """What Interfaces.set() takes."""
        kind = {"tunnel": "vxlan", "node": "ether", "pod": "veth"}[self.role]
        return (
            self.cookie,
            self.ifindex,
            self.name,
            f"ns{self.cookie}",
            "02:00:00:00:00:01",
            kind,
            self.role,
            self.inside,
        )

    def packet(
        self, wire: Wire, from_client: bool, seq: int, n: int, t: int, packets: int = 1, again: bool = False
    ) -> None:
        """Segments with n new bytes in all; again: seen before, they bring nothing new."""
        run = self.runs.get(id(wire))
        if again:
            if run is not None and run.open:
                run.packets += packets
                run.retransmits += packets
            return
        if run is None or not run.open or run.from_client != from_client:
            self._emit(wire, from_client, seq, t, 0)
            run = self.runs[id(wire)] = Run(from_client, seq)
        run.bytes += n
        run.packets += packets
        run.end = t

    def silence(self, wire: Wire, t: int) -> None:
        """The sweep finds that nothing passed for some time."""
        self._end(wire, t, 0)

    def close(self, wire: Wire, t: int, reset: bool = False) -> None:
        self._end(wire, t, RESET if reset else 0)
        self.runs.pop(id(wire), None)

    def _end(self, wire: Wire, t: int, flags: int) -> None:
        run = self.runs.get(id(wire))
        if run is not None and run.open:
            self._emit(wire, not run.from_client, 0, t, ENDS | flags)
            run.open = False

    def _emit(self, wire: Wire, from_client: bool, seq: int, t: int, flags: int) -> None:
        before = self.runs.get(id(wire))
        ends = self.addresses or (wire.client.local, wire.server.local)
        src, dst = ends if from_client else ends[::-1]
        outer = self.outer if from_client else self.outer[::-1]
        values: dict[str, int | bytes] = {}
        if before is not None and before.open:
            values = {
                "prev_bytes": before.bytes, "prev_end_ns": before.end, "prev_seq": before.seq,
                "prev_packets": before.packets, "prev_retransmits": before.retransmits,
            }  # fmt: skip
        if self.isns:
            values |= {"isn_connecting": wire.isns[0], "isn_accepting": wire.isns[1]}
            values["role"] = CONNECTING if from_client else ACCEPTING
        if self.tunnel:
            values |= {
                "tunnel": self.tunnel, "tunnel_id": self.vni, "outer_family": 2,
                "outer_src_addr": packed((outer[0], 0)), "outer_dst_addr": packed((outer[1], 0)),
            }  # fmt: skip
        emitted = self.kernel.emit(
            "zs_nic", t, 0, netns_cookie=self.cookie, ifindex=self.ifindex, seq=seq,
            flags=flags | (EGRESS if self.out == from_client else 0), src_port=src[1], dst_port=dst[1], family=2,
            src_addr=packed(src), dst_addr=packed(dst), **values,
        )  # fmt: skip
        if not emitted:
            self.kernel.count("ring_full_nic")


@dataclass
class Path:
    """A connection and the interfaces on its way, each with the time from the client's process to it (ns)."""

    wire: Wire
    nics: list[tuple[Nic, int]]
    to_server: int  # time between the processes
    sent: list[int] = field(default_factory=lambda: [0, 0])  # bytes of the server, of the client

    def pass_on(
        self, who: str, data: bytes, t: int, *, last: int = 0, read_late: int = 0, lossy: Nic | None = None
    ) -> int:
        """One call's bytes, all in segments at once. Returns when the other process has read them.

        last: from first to last segment. read_late: time in the reader's socket. lossy: an interface behind
        which the first segment was lost, and sent again.
        """
        client = who == "client"
        wire, size = self.wire, len(data)
        start = (wire.isns[0 if client else 1] + 1 + self.sent[client]) % ALL
        self.sent[client] += size
        sender, reader = (wire.client, wire.server) if client else (wire.server, wire.client)
        segments = max(1, -(-size // MSS))
        sender.send(data, t + 1000)
        for nic, away in self.nics if client else self.nics[::-1]:
            at = t + (away if client else self.to_server - away)
            nic.packet(wire, client, start, min(MSS, size), at)
            if lossy is not None:
                nic.packet(wire, client, start, 0, at, again=True)
                if lossy is nic:
                    lossy = None
            if segments > 1:
                nic.packet(wire, client, start + MSS, size - MSS, at + last, segments - 1)
        arrived = t + self.to_server + (last if segments > 1 else 0) + read_late
        reader.recv(data, arrived)
        return arrived

    def close(self, t: int, reset: bool = False) -> None:
        self.wire.close(t)
        for nic, _ in self.nics:
            nic.close(self.wire, t, reset)


__all__ = ["End", "Nic", "Path", "Run"]

"""What the kernel programs would write: sockets' states and one ring, in Python.

A second implementation of bpf/include/zs_{message,life,datagram}.bpf.h (zs_on_tcp, zs_on_destroy,
zs_sweep_one, zs_on_udp), so that the engine's tests see the records that a conversation gives, runs, offsets,
gaps and all, whatever is lost on the way. Nothing here knows a protocol. Used by engine_kit and the tests;
times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from zerospan.exporter.abi import events
from zerospan.exporter.abi.events import ACCEPTING, CONNECTING, F_CUT, F_GAP, F_NO_PAYLOAD, PAYLOAD_MAX, RECV, SEND

CLASSES = (64, 192, 512, 2048, PAYLOAD_MAX)  # payload areas of the records
ALL = 1 << 32
AF_INET, AF_INET6, TCP = 2, 10, 6
JUNK = b"\xa5"  # what an earlier record left behind in the ring


@dataclass(frozen=True)
class Process:
    """A process and how it is described."""

    tgid: int
    comm: str
    nginx: bool = False
    loop: bool = False
    order: int = 0
    hidden: bool = False
    agent: bool = False  # zs_self_tgid: only its connections are announced

    @property
    def service(self) -> str:
        return self.comm


@dataclass(frozen=True)
class Record:
    """One record of the ring and what it is about."""

    data: bytes
    struct: str
    time: int
    conn_id: int
    run: int = 0
    off: int = 0


def packed(end: tuple[str, int]) -> bytes:
    return ipaddress.ip_address(end[0]).packed


@dataclass
class Kernel:
    """The ring and the counters. lose: whether the n-th reservation (from 0) finds the ring full."""

    capture: int = 512
    lose: Callable[[int], bool] = lambda n: False
    records: list[Record] = field(default_factory=list)
    tried: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    ids: int = 1000

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    def emit(self, struct: str, time: int, conn_id: int, payload: bytes = b"", **values: int | bytes) -> bool:
        """Writes a record, in the size class of its payload; False if the ring was full."""
        self.tried += 1
        if self.lose(self.tried - 1):
            return False
        if conn_id:  # an interface knows none
            values["conn_id"] = conn_id
        data = bytearray(events.build(struct, payload, time_ns=time, **values))
        if payload:
            data += JUNK * (next(c for c in CLASSES if len(payload) <= c) - len(payload))
            data[0:2] = len(data).to_bytes(2, "little")
        run, off = int(values.get("run", 0)), int(values.get("run_off", 0))
        self.records.append(Record(bytes(data), struct, time, conn_id, run, off))
        return True

    def count(self, reason: str) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + 1


@dataclass
class End:
    """One end of a TCP connection: struct zs_state, and where the socket stands."""

    kernel: Kernel
    process: Process
    tid: int
    connecting: bool
    isn: int
    peer_isn: int
    local: tuple[str, int]
    remote: tuple[str, int]
    known: bool = True  # the counters of the socket tell who connected
    conn_id: int = 0
    sent: int = 0
    got: int = 0
    run: int = 0
    dir: int = 0
    run_len: int = 0
    run_seq: int = 0
    run_end: int = 0
    captured: int = 0
    other_seq: int = 0
    gap: bool = False
    announced: bool = False
    dirty: bool = False
    watched: bool = True

    def send(self, data: bytes, t: int, tid: int = 0, user: bool = True, process: Process | None = None) -> None:
        """One call that sent `data`. user: from memory that can be copied (not sendfile)."""
        self.sent += len(data)
        self._io(SEND, data, t, tid, user, process)

    def recv(self, data: bytes, t: int, tid: int = 0, user: bool = True, process: Process | None = None) -> None:
        """One call that read `data`."""
        self.got += len(data)
        self._io(RECV, data, t, tid, user, process)

    def unseen(self, direction: int, n: int) -> None:
        """n bytes moved without a hook (splice)."""
        if direction == SEND:
            self.sent += n
        else:
            self.got += n

    def connect(self, t: int, tid: int = 0) -> None:
        """connect() is asked for (SYN_SENT)."""
        if not self.watched or self.process.agent:
            return
        self.conn_id = self.kernel.new_id()
        if not self.kernel.emit("zs_connect", t, self.conn_id, tgid=self.process.tgid, tid=tid or self.tid):
            self.kernel.count("ring_full_connect")

    def sweep(self, t: int) -> None:
        """The periodic walk over all sockets."""
        if self.watched and self.dirty and self.announced:
            emitted = self.kernel.emit(
                "zs_progress", t, self.conn_id, dir=self.dir, run=self.run, run_len=self.run_len,
                run_end_ns=self.run_end,
            )  # fmt: skip
            if emitted:
                self.dirty = False

    def close(self, t: int, error: int = 0) -> None:
        """TCP is done with the connection."""
        if not self.watched or not self.announced or self.process.agent:
            return
        emitted = self.kernel.emit(
            "zs_close", t, self.conn_id, dir=self.dir, flags=F_GAP if self.gap else 0, run=self.run,
            end_ns=t, run_len=self.run_len, run_end_ns=self.run_end, error=error, bytes_sent=self.sent,
            bytes_received=self.got,
        )  # fmt: skip
        if not emitted:
            self.kernel.count("ring_full_close")

    def _position(self, direction: int) -> int:
        if direction == SEND:
            return (self.isn + 1 + self.sent) % ALL
        return (self.peer_isn + 1 + self.got) % ALL

    def _announce(self, t: int, process: Process, tid: int) -> bool:
        isns: dict[str, int | bytes] = {}
        if self.known:
            mine, other = ("connecting", "accepting") if self.connecting else ("accepting", "connecting")
            isns |= {f"isn_{mine}": self.isn, f"isn_{other}": self.peer_isn}
            isns["role"] = CONNECTING if self.connecting else ACCEPTING
        emitted = self.kernel.emit(
            "zs_conn", t, self.conn_id, b"", tgid=process.tgid, tid=tid, netns=1, protocol=TCP,
            comm=process.comm.encode(), family=AF_INET6 if ":" in self.local[0] else AF_INET, local_port=self.local[1],
            remote_port=self.remote[1], local_addr=packed(self.local), remote_addr=packed(self.remote), **isns,
        )  # fmt: skip
        if not emitted:
            self.kernel.count("ring_full_conn")
            return False
        self.announced = self.known
        return True

    def _run_lost(self) -> None:
        self.gap = True
        self.captured = PAYLOAD_MAX
        from_client = self.connecting == (self.dir == SEND)
        self.kernel.count("ring_full_request" if from_client else "ring_full_response")

    def _turn(self, direction: int, seq: int) -> None:
        self.run += 1
        self.dir = direction
        self.run_len = 0
        self.run_seq = seq
        self.captured = 0
        self.dirty = False

    def _run_total(self, end: int) -> int:
        unseen = (end - self.run_seq - self.run_len) % ALL
        return self.run_len + unseen if 0 < unseen < ALL // 2 else self.run_len

    def _io(self, direction: int, data: bytes, t: int, tid: int, user: bool, process: Process | None) -> None:
        if not self.watched:
            return
        process, tid = process or self.process, tid or self.tid
        self.conn_id = self.conn_id or self.kernel.new_id()
        if process.agent:
            if not self.announced:
                self._announce(t, process, tid)
            return
        seq = (self._position(direction) - len(data)) % ALL
        other = self._position(1 - direction)
        prev_len = prev_end = 0
        if self.run == 0:
            self._turn(direction, seq)
        elif self.dir != direction:
            prev_len, prev_end = self._run_total(other), self.run_end
            self._turn(direction, seq)
        elif other != self.other_seq:
            self._unseen_run(direction, other, t, process, tid)
            prev_len, prev_end = self.run_len, t
            self._turn(direction, seq)
        self.other_seq = other
        if not self.announced and not self._announce(t, process, tid):
            self._run_lost()
        else:
            self._message(direction, data, t, seq, (prev_len, prev_end), user, process, tid)
        self.run_len = (seq - self.run_seq + len(data)) % ALL
        self.run_end = t

    def _message(
        self, direction: int, data: bytes, t: int, seq: int, prev: tuple[int, int], user: bool, process: Process,
        tid: int,
    ) -> None:  # fmt: skip
        n = max(0, min(len(data), self.kernel.capture - self.captured)) if user else 0
        flags = (F_GAP if self.gap else 0) | (0 if user else F_NO_PAYLOAD)
        if n == 0 and self.run_len:
            self.dirty = True
            return
        if n < len(data):
            flags |= F_CUT
        emitted = self.kernel.emit(
            "zs_msg", t, self.conn_id, data[:n], dir=direction, flags=flags, tgid=process.tgid, tid=tid, seq=seq,
            len=len(data), run=self.run, run_off=self.run_len, prev_len=prev[0], prev_end_ns=prev[1],
        )  # fmt: skip
        if emitted:
            self.captured = PAYLOAD_MAX if n < len(data) else self.captured + n
            self.gap = self.dirty = False
        elif self.run_len == 0:
            self._run_lost()
        else:
            self.gap = True
            self.captured = PAYLOAD_MAX
            self.kernel.count("ring_full_rest")

    def _unseen_run(self, direction: int, other: int, t: int, process: Process, tid: int) -> None:
        n = (other - self.other_seq) % ALL
        prev_len, prev_end = self._run_total((self.run_seq + self.run_len) % ALL), self.run_end
        self._turn(1 - direction, self.other_seq)
        flags = (F_GAP if self.gap else 0) | F_NO_PAYLOAD | F_CUT
        emitted = self.kernel.emit(
            "zs_msg", t, self.conn_id, dir=1 - direction, flags=flags, tgid=process.tgid, tid=tid, seq=self.other_seq,
            len=n, run=self.run, run_off=0, prev_len=prev_len, prev_end_ns=prev_end,
        )  # fmt: skip
        self.run_len = n
        self.run_end = t
        if emitted:
            self.gap = False
        else:
            self._run_lost()


@dataclass
class Socket:
    """A UDP socket. peer: set if it is connected."""

    kernel: Kernel
    process: Process
    tid: int
    local: tuple[str, int]
    peer: tuple[str, int] | None = None
    conn_id: int = 0

    def send(self, data: bytes, t: int, to: tuple[str, int] | None = None, tid: int = 0) -> None:
        self._dgram(SEND, data, t, to, tid)

    def recv(self, data: bytes, t: int, sender: tuple[str, int] | None = None, tid: int = 0) -> None:
        """sender: None where the hook cannot tell it (recvfrom without a name, an unconnected socket)."""
        self._dgram(RECV, data, t, sender, tid)

    def _dgram(self, direction: int, data: bytes, t: int, other: tuple[str, int] | None, tid: int) -> None:
        if self.process.agent:
            return
        self.conn_id = self.conn_id or self.kernel.new_id()
        address, port = other or self.peer or ("0.0.0.0", 0)
        payload = data[: self.kernel.capture]
        family = AF_INET6 if ":" in (address if other else self.local[0]) else AF_INET
        emitted = self.kernel.emit(
            "zs_dgram", t, self.conn_id, payload, dir=direction, flags=F_CUT if len(payload) < len(data) else 0,
            tgid=self.process.tgid, tid=tid or self.tid, netns=1, len=len(data), local_port=self.local[1],
            remote_port=port, family=family, local_addr=packed(self.local),
            remote_addr=packed((address, port)), comm=self.process.comm.encode(),
        )  # fmt: skip
        if not emitted:
            self.kernel.count("ring_full_dgram")


class Wire:
    """A TCP connection between two processes of this host; `watch` says which ends the hooks see.

    client, server: (process, thread). isns: of the connecting and of the accepting side.
    """

    def __init__(
        self,
        kernel: Kernel,
        client: tuple[Process, int],
        server: tuple[Process, int],
        *,
        isns: tuple[int, int] | None = None,
        ports: tuple[int, int] | None = None,
        addresses: tuple[str, str] = ("127.0.0.1", "127.0.0.1"),
        watch: str = "both",
        known: bool = True,
    ) -> None:
        n = kernel.new_id()
        self.kernel = kernel
        self.isns = isns or (n * 0x9E3779B1 % ALL, n * 0x85EBCA77 % ALL)
        self.ports = ports or (30000 + n % 20000, 8080)
        a, b = (addresses[0], self.ports[0]), (addresses[1], self.ports[1])
        self.client = End(kernel, client[0], client[1], True, self.isns[0], self.isns[1], a, b, known)
        self.server = End(kernel, server[0], server[1], False, self.isns[1], self.isns[0], b, a, known)
        self.client.watched = watch in ("both", "client")
        self.server.watched = watch in ("both", "server")

    def seq(self, sent_before: int) -> int:
        """Sequence number of the client's byte with this offset."""
        return (self.isns[0] + 1 + sent_before) % ALL

    def pass_on(
        self, who: str, data: bytes, t: int, *, sizes: list[int] | None = None, order: str = "sender", lag: int = 1000,
        tids: tuple[int, int] = (0, 0), user: bool = True, step: int = 100,
    ) -> int:  # fmt: skip
        """Bytes from `who` ("client", "server") to the other. Returns the time after it.

        sizes: of the calls on both sides (all in one if None). order: whose records come first, "sender" or "reader".
        tids: of the sending and the reading thread.
        """
        sender, reader = (self.client, self.server) if who == "client" else (self.server, self.client)
        parts, at = [], 0
        for n in sizes or [len(data)]:
            parts.append(data[at : at + n])
            at += n
        if at < len(data):
            parts.append(data[at:])
        for part in parts:
            # The reader may be woken before the sender's call ends: its record comes first then.
            sent, read = (t, t + lag) if order == "sender" else (t + lag, t)
            if order == "sender":
                sender.send(part, sent, tids[0], user)
                reader.recv(part, read, tids[1], user)
            else:
                reader.recv(part, read, tids[1], user)
                sender.send(part, sent, tids[0], user)
            t += lag + step
        return t

    def close(self, t: int, error: int = 0) -> None:
        self.client.close(t, error)
        self.server.close(t, error)

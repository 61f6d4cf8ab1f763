"""The records of a Capture, sorted by connection end, and what must hold for all of them."""

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer import Peer
from wire import Wire

from zerospan.exporter.abi import events
from zerospan.exporter.source.capture import Capture

libc = ctypes.CDLL(None, use_errno=True)
Record = dict[str, Any]
PAYLOAD = 512


@dataclass
class Run:
    """Bytes in one direction until the other side spoke, as the records tell."""

    number: int
    dir: int
    seq: int
    payload: bytes
    length: int | None = None
    flags: int = 0
    first_ns: int = 0
    end_ns: int = 0
    calls: list[Record] = field(default_factory=list)


@dataclass
class End:
    """One end of a connection."""

    conns: list[Record]
    msgs: list[Record] = field(default_factory=list)
    progress: list[Record] = field(default_factory=list)
    closes: list[Record] = field(default_factory=list)
    order: list[Record] = field(default_factory=list)

    @property
    def conn(self) -> Record:
        """The newest ZS_CONN record: an earlier one may not have known the initial sequence numbers."""
        return self.conns[-1]

    @property
    def isns(self) -> tuple[int, int]:
        return self.conn["isn_connecting"], self.conn["isn_accepting"]

    @property
    def payloads(self) -> list[bytes]:
        return [m["payload"] for m in self.msgs]

    def runs(self) -> list[Run]:
        """All runs by number; lengths from the next run, the close or the last progress record."""
        out: list[Run] = []
        for m in self.msgs:
            if not out or out[-1].number != m["run"]:
                if out and out[-1].number == m["run"] - 1:
                    out[-1].length, out[-1].end_ns = m["prev_len"], m["prev_end_ns"]
                out.append(Run(m["run"], m["dir"], (m["seq"] - m["run_off"]) & 0xFFFFFFFF, b"", first_ns=m["time_ns"]))
            out[-1].payload += m["payload"]
            out[-1].flags |= m["flags"]
            out[-1].calls.append(m)
        for said in [*self.progress, *self.closes]:
            if out and out[-1].number == said["run"]:
                assert said["dir"] == out[-1].dir
                out[-1].length, out[-1].end_ns = said["run_len"], said["run_end_ns"]
        return out


class Trace:
    """Reads a Capture. records: all that came, parsed, in order."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.records: list[Record] = []
        self._before: dict[str, int] = {}
        self._earlier: set[int] = set()

    def fresh(self) -> "Trace":
        """Forgets what came so far: a capture that is shared by tests begins anew."""
        self.drain()
        self._earlier |= {r["conn_id"] for r in self.records}
        self.records = []
        self._before = self.capture.counters()
        return self

    def counters(self) -> dict[str, int]:
        """Counters that moved since fresh()."""
        now = self.capture.counters()
        return {k: v - self._before.get(k, 0) for k, v in now.items() if v != self._before.get(k, 0)}

    def drain(self) -> "Trace":
        self.records += [events.parse(raw) for raw in self.capture.ring.drain()]
        return self

    def until(self, what: Callable[["Trace"], Any], timeout: float = 5) -> Any:
        """Drains until what(trace) is true; its value. AssertionError with the last records if never."""
        try:
            return self.wait(lambda: what(self.drain()), timeout)
        except TimeoutError:
            raise AssertionError(f"never came true; records: {summary(self.records)}") from None

    @staticmethod
    def wait(what: Callable[[], Any], timeout: float = 5) -> Any:
        deadline = time.monotonic() + timeout
        while not (value := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s")
            time.sleep(0.002)
        return value

    def of(self, kind: str) -> list[Record]:
        return [r for r in self.records if r["struct"] == kind]

    def ends(self) -> dict[int, End]:
        """conn_id -> end, for all that were announced."""
        out: dict[int, End] = {}
        for r in self.records:
            if r["conn_id"] in self._earlier:
                continue
            if r["struct"] == "zs_conn":
                if r["conn_id"] in out:
                    out[r["conn_id"]].conns.append(r)
                else:
                    out[r["conn_id"]] = End([r])
            elif r["struct"] in ("zs_connect", "zs_dgram"):
                continue
            else:
                assert r["conn_id"] in out, f"a record before its connection was announced: {r}"
                end = out[r["conn_id"]]
                end.order.append(r)
                {"zs_msg": end.msgs, "zs_progress": end.progress, "zs_close": end.closes}[r["struct"]].append(r)
        return out

    def end(self, local: int, remote: int) -> End:
        """The end with these ports. AssertionError if there is none, or more."""
        found = [e for e in self.ends().values() if (e.conn["local_port"], e.conn["remote_port"]) == (local, remote)]
        assert len(found) == 1, f"{len(found)} ends {local} -> {remote}; records: {summary(self.records)}"
        return found[0]

    def states(self) -> list[dict[str, Any]]:
        """What the layout sys_exit remembers of connections: fields of struct zs_state."""
        listed = subprocess.run(
            ["bpftool", "-j", "map", "dump", "id", str(map_id(self.capture.object.map_fd("zs_states")))],
            capture_output=True,
            check=True,
        )
        return [entry["formatted"]["value"] for entry in json.loads(listed.stdout)]

    def has_storage(self, peer: Peer, fd: int) -> bool:
        """Whether the layout sock_length remembers anything of a socket of a traffic process."""
        copy = peer.borrow(fd)
        try:
            return lookup(self.capture.object.map_fd("zs_states"), struct.pack("=i", copy), 4096)
        finally:
            os.close(copy)

    def lost(self) -> dict[str, int]:
        """Counters that say that something did not come out."""
        return {k: v for k, v in self.counters().items() if k not in ("emitted", "filtered", "udp_not_dns")}


def map_id(fd: int) -> int:
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(next(line.split()[1] for line in info.splitlines() if line.startswith("map_id")))


def lookup(map_fd: int, key: bytes, room: int) -> bool:
    """Whether a map has an element. bpf(BPF_MAP_LOOKUP_ELEM)"""
    key_at, value_at = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(room)
    attr = struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_at), ctypes.addressof(value_at), 0)
    SYS_BPF, BPF_MAP_LOOKUP_ELEM = 321, 1
    if libc.syscall(SYS_BPF, BPF_MAP_LOOKUP_ELEM, attr, len(attr)) == 0:
        return True
    if ctypes.get_errno() == errno.ENOENT:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def summary(records: list[Record]) -> str:
    rows = []
    for r in records[-40:]:
        keep = (
            "conn_id",
            "dir",
            "run",
            "run_off",
            "seq",
            "len",
            "flags",
            "prev_len",
            "run_len",
            "error",
            "role",
            "tgid",
        )
        fields = " ".join(f"{k}={r[k]}" for k in keep if k in r)
        rows.append(f"{r['struct']} {fields} {r['payload'][:24]!r}")
    return f"{len(records)}\n" + "\n".join(rows)


def address(conn: Record, which: str) -> str:
    if conn["family"] == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, conn[f"{which}_addr"][:4])
    return socket.inet_ntop(socket.AF_INET6, conn[f"{which}_addr"])


def check_pair(client: End, server: End, wire: Wire | None) -> None:
    """What holds for the two ends of any connection, and against its packets if there is a capture."""
    assert client.isns == server.isns
    assert client.conn["role"] == events.CONNECTING
    assert server.conn["role"] == events.ACCEPTING
    client_port, server_port = client.conn["local_port"], client.conn["remote_port"]
    if wire is not None:
        wire.read()
        assert wire.dropped() == 0
        assert client.isns == wire.isns(client_port)
    for end, outward in ((client, (client_port, server_port)), (server, (server_port, client_port))):
        check_order(end)
        for m in end.msgs:
            flow = outward if m["dir"] == events.SEND else outward[::-1]
            if wire is not None:
                assert wire.bytes_at(*flow, m["seq"], len(m["payload"])) == m["payload"], (flow, m)
                if m["run_off"] == 0:
                    assert m["seq"] in wire.starts(*flow), (flow, m)
    for ours, theirs in zip(client.runs(), server.runs(), strict=False):
        assert (ours.number, ours.dir, ours.seq) == (theirs.number, events.RECV - theirs.dir, theirs.seq)
        if ours.length is not None and theirs.length is not None:
            assert ours.length == theirs.length


def check_order(end: End) -> None:
    """Numbers go up without gap and alternate; times do not go back; no more payload than was asked for."""
    runs = end.runs()
    numbers = [r.number for r in runs]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    assert all(a.dir != b.dir for a, b in zip(runs, runs[1:], strict=False))
    times = [m["time_ns"] for m in end.msgs]
    assert times == sorted(times)
    for run in runs:
        assert len(run.payload) <= PAYLOAD
        for call in run.calls:
            assert len(call["payload"]) <= call["len"]
            assert bool(call["flags"] & events.F_CUT) == (len(call["payload"]) < call["len"])

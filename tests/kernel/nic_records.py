"""Records of interfaces, sorted by point, and what they must say."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from nic_net import Run, Tap

from zerospan.exporter.abi import events
from zerospan.exporter.source.capture import Capture
from zerospan.exporter.source.interfaces import Interface
from zerospan.exporter.source.nic import Nics

Record = dict[str, Any]
EGRESS, END, RESET, SOCKET = 1, 2, 4, 8
VXLAN, GENEVE, GRE, IPIP = 1, 2, 3, 4


class Points:
    """Drains a Capture; records by interface."""

    def __init__(self, capture: Capture, nics: Nics | None = None) -> None:
        self.capture, self.nics = capture, nics
        self.records: list[Record] = []
        self.before = capture.counters()

    def drain(self) -> list[Record]:
        self.records += [r for r in map(events.parse, self.capture.ring.drain()) if r["struct"] == "zs_nic"]
        return self.records

    def counted(self) -> dict[str, int]:
        now = self.capture.counters()
        return {k: v - self.before[k] for k, v in now.items() if v != self.before[k] and "nic" in k}

    def interface(self, netns: str, name: str) -> Interface:
        assert self.nics is not None
        inode = os.stat(f"/run/netns/{netns}").st_ino
        (found,) = [i for i in self.nics.interfaces().values() if (i.netns, i.name) == (inode, name)]
        return found

    def at(self, netns: str, name: str, port: int, tunnel: int = 0) -> list[Record]:
        """Records of a connection to a port at an interface."""
        i = self.interface(netns, name)
        return [
            r
            for r in self.drain()
            if (r["netns_cookie"], r["ifindex"], r["tunnel"]) == (i.netns_cookie, i.ifindex, tunnel)
            and port in (r["src_port"], r["dst_port"])
        ]

    def until(self, what: Callable[[], Any], seconds: float = 8) -> Any:
        return until(what, seconds, lambda: f"records: {[brief(r) for r in self.records[-30:]]}")


def until(what: Callable[[], Any], seconds: float = 8, said: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s; {said()}"
        time.sleep(0.005)
    return value


def brief(r: Record) -> str:
    keep = ("ifindex", "tunnel", "flags", "role", "src_port", "dst_port", "seq", "prev_seq", "prev_bytes")
    return " ".join(f"{k}={r[k]}" for k in (*keep, "prev_packets", "prev_retransmits"))


def flow(r: Record) -> tuple[str, int, str, int]:
    n = 4 if r["family"] == socket.AF_INET else 16
    ends = [socket.inet_ntop(r["family"], r[f"{end}_addr"][:n]) for end in ("src", "dst")]
    return ends[0], r["src_port"], ends[1], r["dst_port"]


def outer(r: Record) -> tuple[str, str]:
    n = 4 if r["outer_family"] == socket.AF_INET else 16
    ends = [socket.inet_ntop(r["outer_family"], r[f"outer_{end}_addr"][:n]) for end in ("src", "dst")]
    return ends[0], ends[1]


def agree(records: list[Record], tap: Tap, port: int, *, from_socket: bool = False, isns: bool = True) -> None:
    """Every run of the capture is there, in order, and nothing else; ended by a FIN. All as on the wire."""
    runs = tap.runs(port)
    assert len(records) == len(runs) + 1, [brief(r) for r in records]
    known = tap.isns(port) if isns else (0, 0)
    for i, (r, run) in enumerate(zip(records[:-1], runs, strict=True)):
        assert flow(r) == run.flow
        assert (bool(r["flags"] & EGRESS), r["flags"] & (END | RESET)) == (run.egress, 0)
        assert bool(r["flags"] & SOCKET) == from_socket
        assert r["seq"] == run.seq
        assert (r["isn_connecting"], r["isn_accepting"]) == known
        if isns:
            assert r["role"] == (events.CONNECTING if r["dst_port"] == port else events.ACCEPTING)
        if run.vni is not None:
            assert (r["tunnel"], r["tunnel_id"], outer(r)) == (VXLAN, run.vni, run.outer)
        else:
            assert (r["tunnel"], r["tunnel_id"], r["outer_family"]) == (0, 0, 0)
        before(r, runs[i - 1] if i else None)
    last = records[-1]
    assert last["flags"] & END and not last["flags"] & RESET
    assert flow(last) == (*runs[-1].flow[2:], *runs[-1].flow[:2])
    before(last, runs[-1])
    times = [r["time_ns"] for r in records]
    assert times == sorted(times)
    assert all(a["time_ns"] <= b["prev_end_ns"] <= b["time_ns"] for a, b in zip(records, records[1:], strict=False))


def before(r: Record, run: Run | None) -> None:
    """What a record says of the run before."""
    told = (r["prev_seq"], r["prev_bytes"], r["prev_packets"], r["prev_retransmits"])
    assert told == ((run.seq, run.bytes, run.packets, 0) if run else (0, 0, 0, 0)), brief(r)
    assert bool(r["prev_end_ns"]) == (run is not None)

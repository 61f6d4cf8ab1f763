"""What the programs for interfaces make of packets made by hand, run in the kernel by BPF_PROG_TEST_RUN."""

import itertools
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from nic_packets import (
    A4,
    A6,
    ACK,
    AUTH,
    B4,
    B6,
    FIN,
    FRAGMENT,
    HOPS,
    IP4,
    IP6,
    OPTIONS,
    OUT4,
    OUT6,
    PSH,
    ROUTING,
    RST,
    SYN,
    TEB,
    auth,
    ethernet,
    extended,
    fragment6,
    geneve,
    gre,
    ip4,
    ip6,
    padding,
    tcp,
    udp,
    vxlan,
)  # fmt: skip
from nic_records import EGRESS, END, GENEVE, GRE, IPIP, RESET, VXLAN, Points, Record, flow, outer

from zerospan.exporter.source import bpf
from zerospan.exporter.source.capture import Capture, Filters
from zerospan.exporter.source.nic import Programs

PORTS = itertools.count(1024)
IPV4, IPV6, BODY = socket.AF_INET, socket.AF_INET6, b"GET / HTTP/1.1\r\n\r\n"
ETHERNET = ("zs_nic_in", "zs_nic_out")
# BPF_PROG_TEST_RUN gives a socket filter no link layer: zs_nic_tap is left to test_nic_points.py
ALL = (*ETHERNET, "zs_nic_raw_in", "zs_nic_raw_out", "zs_nic_raw_tap")
OTHER = {"zs_nic_in": "zs_nic_out", "zs_nic_out": "zs_nic_in", "zs_nic_raw_in": "zs_nic_raw_out",
         "zs_nic_raw_out": "zs_nic_raw_in"}  # fmt: skip
NEXT = {"zs_nic_raw_tap": 0}  # what a program returns; the others (u32)-1


@dataclass
class Bench(Points):
    """The loaded programs; runs packets through them."""

    capture: Capture
    programs: Programs
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drain()
        super().__init__(self.capture)

    def run(self, *frames: bytes, program: str = "zs_nic_in", gso: tuple[int, int] = (0, 0)) -> list[Record]:
        """The records that the frames made."""
        seen = len(self.drain())
        for frame in frames:
            answer, _ = bpf.run_packet(self.programs.maps.program_fd(program), frame, *gso)
            assert answer == NEXT.get(program, 0xFFFFFFFF)
        return self.drain()[seen:]


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Capture, Programs]]:
    capture = Capture(filters=Filters(pid=(1 << 22,)))
    programs = Programs(capture.object.map_fd("zs_ring"), capture.object.map_fd("zs_counts"), 1.0)
    yield capture, programs
    programs.close()
    capture.close()


@pytest.fixture
def bench(loaded: tuple[Capture, Programs]) -> Bench:
    return Bench(*loaded)


def first(port: int, **more: Any) -> bytes:
    return tcp(port, BODY, flags=ACK | PSH, **more)


V4, V6 = {False: (A4, B4), True: (B4, A4)}, {False: (A6, B6), True: (B6, A6)}
FIVE = (HOPS, padding()), (OPTIONS, padding(3)), (ROUTING, padding()), (FRAGMENT, fragment6()), (AUTH, auth())
PLAIN: dict[str, Any] = {
    "ipv4": lambda t, b: (IP4, ip4(t, V4[b])),
    "ipv4 options": lambda t, b: (IP4, ip4(t, V4[b], options=bytes(40))),
    "ipv4 first fragment": lambda t, b: (IP4, ip4(t, V4[b], fragment=0x2000)),
    "ipv4 do not fragment": lambda t, b: (IP4, ip4(t, V4[b], fragment=0x4000)),
    "ipv6": lambda t, b: (IP6, ip6(t, V6[b])),
    "ipv6 hop by hop": lambda t, b: (IP6, extended(t, (HOPS, padding()), ends=V6[b])),
    "ipv6 routing, options": lambda t, b: (IP6, extended(t, (ROUTING, padding(2)), (OPTIONS, padding(1)), ends=V6[b])),
    "ipv6 first fragment": lambda t, b: (IP6, extended(t, (FRAGMENT, fragment6()), ends=V6[b])),
    "ipv6 authenticated": lambda t, b: (IP6, extended(t, (AUTH, auth(4)), ends=V6[b])),
    "ipv6 five headers": lambda t, b: (IP6, extended(t, *FIVE, ends=V6[b])),
}


@pytest.mark.parametrize("program", ALL)
@pytest.mark.parametrize("name", PLAIN)
def test_headers(bench: Bench, name: str, program: str) -> None:
    """With and without a link layer, with padding behind: one record, of the right connection, of the right length."""
    port = next(PORTS)
    kind, packet = PLAIN[name](first(port), False)
    _, answer = PLAIN[name](tcp(port, b"ok", seq=7000, ack=1000 + len(BODY), back=True), True)
    got = bench.run(ethernet(kind, packet) + bytes(9), program=program)
    ends = (A4, B4) if kind == IP4 else (A6, B6)
    assert len(got) == 1
    assert flow(got[0]) == (ends[0], port, ends[1], 80)
    assert (got[0]["seq"], got[0]["tunnel"], got[0]["vlan"], got[0]["outer_family"]) == (1000, 0, 0, 0)
    assert bool(got[0]["flags"] & EGRESS) == (program in ("zs_nic_out", "zs_nic_raw_out"))
    assert not bench.counted().get("nic_malformed")
    if program in OTHER:  # what a filter of a packet socket takes for outgoing cannot be made here
        (reply,) = bench.run(ethernet(kind, answer), program=OTHER[program])
        assert reply["seq"] == 7000
        assert (reply["prev_bytes"], reply["prev_packets"]) == (len(BODY), 1)  # not the padding


@pytest.mark.parametrize("inner", [(IP4, (A4, B4)), (IP6, (A6, B6))])
@pytest.mark.parametrize("under", [4, 6])
def test_tunnels(bench: Bench, inner: tuple[int, tuple[str, str]], under: int) -> None:
    """The inner connection is the point's; outer addresses, kind and id stand in the record."""
    kind, ends = inner
    over = (lambda proto, body: ip4(body, OUT4, proto)) if under == 4 else (lambda proto, body: ip6(body, OUT6, proto))

    def packet(port: int) -> bytes:
        return ip4(first(port)) if kind == IP4 else ip6(first(port))

    cases = {
        "vxlan": (VXLAN, 42, lambda p: over(17, vxlan(42, ethernet(kind, packet(p))))),
        "vxlan 8472": (VXLAN, 0xFFFFFF, lambda p: over(17, vxlan(0xFFFFFF, ethernet(kind, packet(p)), 8472))),
        "vxlan vlan": (VXLAN, 1, lambda p: over(17, vxlan(1, ethernet(kind, packet(p), (0x8100, 9))))),
        "geneve": (GENEVE, 7, lambda p: over(17, geneve(7, ethernet(kind, packet(p))))),
        "geneve options": (GENEVE, 7, lambda p: over(17, geneve(7, ethernet(kind, packet(p)), options=bytes(252)))),
        "geneve ip": (GENEVE, 8, lambda p: over(17, geneve(8, packet(p), kind))),
        "gre": (GRE, 0, lambda p: over(47, gre(packet(p), kind))),
        "gre key": (GRE, 77, lambda p: over(47, gre(packet(p), kind, key=77))),
        "gre all": (GRE, 78, lambda p: over(47, gre(packet(p), kind, key=78, check=True, number=True))),
        "gre ethernet": (GRE, 79, lambda p: over(47, gre(ethernet(kind, packet(p)), TEB, key=79, check=True))),
        "ip in ip": (IPIP, 0, lambda p: over(4 if kind == IP4 else 41, packet(p))),
    }
    for name, (tunnel, number, make) in cases.items():
        for program in ALL:
            port = next(PORTS)
            got = bench.run(ethernet(IP4 if under == 4 else IP6, make(port)), program=program)
            assert len(got) == 1, (name, program)
            assert flow(got[0]) == (ends[0], port, ends[1], 80), name
            assert (got[0]["tunnel"], got[0]["tunnel_id"]) == (tunnel, number), name
            assert outer(got[0]) == (OUT4 if under == 4 else OUT6), name
            assert got[0]["seq"] == 1000


@pytest.mark.parametrize("tags", [[(0x8100, 5)], [(0x88A8, 100), (0x8100, 7)], [(0x9100, 1), (0x8100, 4095)]])
def test_vlan(bench: Bench, tags: list[tuple[int, int]]) -> None:
    """Of several tags the innermost is told; the outer ones tell connections apart."""
    port = next(PORTS)
    got = bench.run(ethernet(IP4, ip4(first(port)), *tags))
    assert [(r["vlan"], r["src_port"]) for r in got] == [(tags[-1][1], port)]
    if len(tags) == 2:
        other = [(0x88A8, 101), tags[1]]
        assert len(bench.run(ethernet(IP4, ip4(first(port)), *other))) == 1
    assert not bench.run(ethernet(IP4, ip4(first(port)), *tags))


NOTHING: dict[str, Any] = {
    "udp": lambda t: (IP4, ip4(udp(53, bytes(40)), proto=17)),
    "icmp": lambda t: (IP4, ip4(bytes(40), proto=1)),
    "arp": lambda t: (0x0806, bytes(46)),
    "ipv4 later fragment": lambda t: (IP4, ip4(t, fragment=0x2001)),
    "ipv6 later fragment": lambda t: (IP6, extended(t, (FRAGMENT, fragment6(3)))),
    "ipv6 no next": lambda t: (IP6, ip6(t, proto=59)),
    "ipv6 encrypted": lambda t: (IP6, ip6(t, proto=50)),
    "ipv6 too many headers": lambda t: (IP6, extended(t, *[(OPTIONS, padding())] * 7)),
    "vxlan without id": lambda t: (IP4, ip4(vxlan(1, ethernet(IP4, ip4(t)), flags=0), OUT4, 17)),
    "vxlan gpe": lambda t: (IP4, ip4(vxlan(1, ethernet(IP4, ip4(t)), flags=0x0C), OUT4, 17)),
    "geneve version 1": lambda t: (IP4, ip4(geneve(1, ethernet(IP4, ip4(t)), first=0x40), OUT4, 17)),
    "geneve control": lambda t: (IP4, ip4(geneve(1, ethernet(IP4, ip4(t)), flags=0x80), OUT4, 17)),
    "pptp": lambda t: (IP4, ip4(gre(ip4(t), IP4, key=1, extra=1), OUT4, 47)),
    "gre with routes": lambda t: (IP4, ip4(gre(ip4(t), IP4, extra=0x4000), OUT4, 47)),
    "tunnel in a tunnel": lambda t: (IP4, ip4(ip4(ip4(t), OUT4, 4), OUT4, 4)),
    "tunnel of something else": lambda t: (IP4, ip4(vxlan(1, ethernet(0x0806, bytes(46))), OUT4, 17)),
    "no bytes": lambda t: (IP4, ip4(t[:20])),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_segment_makes_no_record(bench: Bench, name: str) -> None:
    kind, packet = NOTHING[name](first(next(PORTS)))
    for program in ALL:
        assert not bench.run(ethernet(kind, packet) + bytes(20), program=program)
    assert not bench.counted()


def wrong() -> dict[str, tuple[int, bytes]]:
    t = first(next(PORTS))
    return {
        "ipv4 length beyond the packet": (IP4, ip4(t, total=600)),
        "ipv4 length below its header": (IP4, ip4(t, total=10)),
        "ipv4 length 0": (IP4, ip4(t, total=0)),
        "ipv4 length within tcp": (IP4, ip4(t, total=30)),
        "ipv4 header of 4 words": (IP4, ip4(t, ihl=4)),
        "ipv4 header beyond its length": (IP4, ip4(t, ihl=15)),
        "ipv4 of version 6": (IP4, ip6(t)),
        "ipv6 of version 4": (IP6, ip4(t, options=bytes(20))),
        "ipv6 length beyond the packet": (IP6, ip6(t, total=600)),
        "ipv6 length 0": (IP6, ip6(t, total=0)),
        "ipv6 header beyond its length": (IP6, extended(t, (OPTIONS, b"\xff" + bytes(6)))),
        "tcp header of 4 words": (IP4, ip4(first(next(PORTS), offset=4))),
        "tcp header beyond its length": (IP4, ip4(first(next(PORTS), offset=15))),
        "inner length beyond the packet": (IP4, ip4(ip4(t, total=700), OUT4, 4)),
        "inner packet cut": (IP4, ip4(ip4(t)[:30], OUT4, 4)),
        "vxlan cut": (IP4, ip4(vxlan(1, b"")[:10], OUT4, 17)),
        "geneve options beyond the packet": (IP4, ip4(geneve(1, b"", first=0x3F), OUT4, 17)),
        "gre key cut": (IP4, ip4(gre(b"", IP4, extra=0x2000), OUT4, 47)),
    }


@pytest.mark.parametrize("name", wrong())
def test_lengths_that_do_not_fit_are_counted(bench: Bench, name: str) -> None:
    frame = ethernet(*wrong()[name])
    for program in ETHERNET:
        assert not bench.run(frame, program=program)
    assert bench.counted() == {"nic_malformed": len(ETHERNET)}


def test_cut_anywhere(bench: Bench) -> None:
    """Every prefix of packets of every kind: no record but of the whole, and the cut ones are counted."""
    t = first(next(PORTS))
    whole = [
        ethernet(IP4, ip4(t, options=bytes(8)), (0x88A8, 2), (0x8100, 3)),
        ethernet(IP6, extended(t, (HOPS, padding()), (FRAGMENT, fragment6()))),
        ethernet(IP4, ip4(vxlan(3, ethernet(IP6, ip6(t))), OUT4, 17)),
        ethernet(IP6, ip6(geneve(3, ethernet(IP4, ip4(t)), options=bytes(8)), OUT6, 17)),
        ethernet(IP4, ip4(gre(ip4(t), IP4, key=3, check=True), OUT4, 47)),
    ]
    for frame in whole:
        for n in range(54, len(frame)):  # the kernel itself refuses less
            assert not bench.run(frame[:n]), n
        assert len(bench.run(frame)) == 1
    cuts = sum(len(frame) - 54 for frame in whole)
    assert bench.counted()["nic_malformed"] >= cuts - 4 * len(whole)  # a few end where nothing is missing yet


def test_noise(bench: Bench) -> None:
    """20,000 packets with bytes changed at random: whatever comes out is well-formed."""
    rng = random.Random(4)
    frames = [
        ethernet(IP4, ip4(vxlan(3, ethernet(IP6, ip6(first(1)))), OUT4, 17)),
        ethernet(IP6, extended(first(2), (HOPS, padding()), (ROUTING, padding(1)), (AUTH, auth()))),
        ethernet(IP4, ip4(gre(ethernet(IP4, ip4(first(3)), (0x8100, 3)), TEB, key=3, check=True), OUT4, 47)),
        ethernet(IP4, ip4(geneve(3, ip4(first(4)), IP4, options=bytes(12)), OUT4, 17)),
    ]
    for _ in range(20_000):
        frame = bytearray(rng.choice(frames))
        for _ in range(rng.randint(1, 4)):
            frame[rng.randrange(12, len(frame))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        bpf.run_packet(bench.programs.maps.program_fd(rng.choice(ALL)), bytes(frame))
    for r in bench.drain():
        assert r["family"] in (IPV4, IPV6) and r["tunnel"] <= IPIP and r["prev_bytes"] <= r["prev_packets"] << 30
        assert (r["outer_family"] in (IPV4, IPV6)) == bool(r["tunnel"])


class Talk:
    """One connection as it passes a point; each step gives the records it made."""

    def __init__(self, bench: Bench, *, syn: bool = True) -> None:
        self.bench, self.port = bench, next(PORTS)
        self.client, self.server = 0xFFFFFF00, 5000  # the client's numbers wrap
        if syn:
            assert not self.send(b"", flags=SYN, at=-1) + self.send(b"", flags=SYN | ACK, back=True, at=-1)

    def send(self, data: bytes, *, back: bool = False, at: int = 0, flags: int = ACK, ack: int = 0,
             gso: tuple[int, int] = (0, 0)) -> list[Record]:  # fmt: skip
        """`at`, `ack`: places in the streams, from 0."""
        mine, other = (self.server, self.client) if back else (self.client, self.server)
        seq, acked = (mine + at) % (1 << 32), (other + ack) % (1 << 32)
        segment = tcp(self.port, data, seq=seq, ack=acked, flags=flags, back=back)
        return self.bench.run(ethernet(IP4, ip4(segment, V4[back])), program=ETHERNET[back], gso=gso)

    def stream(self, seq: int, back: bool = False) -> int:
        return (seq - (self.server if back else self.client)) % (1 << 32)


def one(got: list[Record]) -> Record:
    assert len(got) == 1
    return got[0]


def test_initial_sequence_numbers(bench: Bench) -> None:
    t = Talk(bench)
    r = one(t.send(bytes(10)))
    assert (r["isn_connecting"], r["isn_accepting"], r["role"]) == (t.client - 1, t.server - 1, 1)
    r = one(t.send(bytes(10), back=True, ack=10))
    assert (r["isn_connecting"], r["isn_accepting"], r["role"]) == (t.client - 1, t.server - 1, 2)
    t = Talk(bench, syn=False)
    t.send(b"", flags=SYN | ACK, back=True, at=-1)  # alone tells both
    r = one(t.send(bytes(10)))
    assert (r["isn_connecting"], r["isn_accepting"], r["role"]) == (t.client - 1, t.server - 1, 1)
    t = Talk(bench, syn=False)
    t.send(b"", flags=SYN, at=-1)
    r = one(t.send(bytes(10)))
    assert (r["isn_connecting"], r["isn_accepting"]) == (0, 0)
    t = Talk(bench, syn=False)
    r = one(t.send(bytes(10)))
    assert (r["isn_connecting"], r["isn_accepting"], r["role"]) == (0, 0, 0)
    t = Talk(bench, syn=False)  # bytes in the SYN (RFC 7413)
    r = one(t.send(bytes(10), flags=SYN, at=-1))
    assert t.stream(r["seq"]) == 0


def test_a_syn_again_changes_nothing_another_one_does(bench: Bench) -> None:
    t = Talk(bench)
    t.send(bytes(10))
    assert not t.send(b"", flags=SYN, at=-1) + t.send(b"", flags=SYN | ACK, back=True, at=-1)
    assert one(t.send(bytes(3), back=True, ack=10))["prev_bytes"] == 10
    t.client += 100_000
    end = one(t.send(b"", flags=SYN, at=-1))
    assert end["flags"] & END and end["prev_bytes"] == 3
    t.server += 100_000
    t.send(b"", flags=SYN | ACK, back=True, at=-1)
    r = one(t.send(bytes(4)))
    assert (r["isn_connecting"] + 1) % (1 << 32) == t.client % (1 << 32) and r["prev_end_ns"] == 0


def test_sent_again(bench: Bench) -> None:
    """Whole, in part, and beyond what was seen; large segments count as the packets they are."""
    t = Talk(bench)
    t.send(bytes(100))
    assert not t.send(bytes(100)) + t.send(bytes(50), at=20)
    assert not t.send(bytes(100), at=50)  # 50 of them are new
    assert not t.send(bytes(1), at=149)  # a keep-alive probe with a byte
    assert not t.send(bytes(400), at=150, gso=(4, 100)) + t.send(bytes(400), at=150, gso=(4, 100))
    r = one(t.send(bytes(7), back=True, ack=550))
    assert (r["prev_bytes"], r["prev_packets"], r["prev_retransmits"]) == (550, 1 + 2 + 1 + 8, 6)
    assert not t.send(bytes(100))  # late, while the other side speaks: begins nothing
    r = one(t.send(bytes(5), at=550, ack=7))
    assert (r["prev_bytes"], r["prev_retransmits"], t.stream(r["seq"])) == (7, 0, 550)


def test_out_of_order(bench: Bench) -> None:
    """A late segment fills its hole; a run whose second segment overtakes its first begins where it should."""
    t = Talk(bench)
    t.send(bytes(100))
    assert not t.send(bytes(100), at=200) + t.send(bytes(60), at=100) + t.send(bytes(40), at=160)
    assert not t.send(bytes(100), at=100)  # this one is a second time
    r = one(t.send(bytes(10), back=True, ack=300))
    assert (r["prev_bytes"], r["prev_packets"], r["prev_retransmits"]) == (300, 5, 1)
    r = one(t.send(bytes(50), at=350, ack=10))
    assert t.stream(r["seq"]) == 300
    assert not t.send(bytes(50), at=300, ack=10)
    r = one(t.send(bytes(10), back=True, at=10, ack=400))
    assert (r["prev_bytes"], r["prev_retransmits"], t.stream(r["prev_seq"])) == (100, 0, 300)


def test_what_passed_elsewhere_is_no_part_of_a_run(bench: Bench) -> None:
    """A whole exchange went another way: the next run begins at its own first byte, not behind the last one seen."""
    t = Talk(bench)
    t.send(bytes(100))
    t.send(bytes(10), back=True, ack=100)
    r = one(t.send(bytes(50), at=300, ack=30))
    assert t.stream(r["seq"]) == 300
    r = one(t.send(bytes(5), back=True, at=30, ack=350))
    assert (r["prev_bytes"], t.stream(r["seq"], back=True)) == (50, 30)
    t = Talk(bench)
    t.send(bytes(100))
    t.send(bytes(10), back=True, ack=300)  # the request's rest was not seen here, its answer was
    r = one(t.send(bytes(50), at=300, ack=10))
    assert t.stream(r["seq"]) == 300


def test_ends(bench: Bench) -> None:
    """At each run one END at most; a half-closed connection goes on."""
    t = Talk(bench)
    t.send(bytes(9))
    end = one(t.send(b"", at=9, flags=FIN | ACK))
    assert (end["flags"] & (END | RESET), end["prev_bytes"], end["src_port"]) == (END, 9, 80)
    assert not t.send(b"", at=9, flags=FIN | ACK)
    got = t.send(bytes(20), back=True, ack=10, flags=FIN | ACK)
    assert [r["flags"] & END for r in got] == [0, END]
    assert (got[0]["prev_end_ns"], got[1]["prev_bytes"], got[1]["src_port"]) == (0, 20, t.port)
    assert not t.send(b"", at=10, flags=RST)
    assert not Talk(bench, syn=False).send(b"", flags=FIN | ACK)  # nothing was seen of it


def test_both_ways_through_one_interface(bench: Bench) -> None:
    """A hairpin: the same segment in and out again is seen at two points, not sent twice."""
    port = next(PORTS)
    frame = ethernet(IP4, ip4(first(port)))
    back = ethernet(IP4, ip4(tcp(port, b"ok", seq=5, ack=1000 + len(BODY), back=True), V4[True]))
    into, out = one(bench.run(frame)), one(bench.run(frame, program="zs_nic_out"))
    assert (into["flags"] & EGRESS, out["flags"] & EGRESS) == (0, EGRESS)
    for program in ("zs_nic_in", "zs_nic_out"):
        r = one(bench.run(back, program=program))
        assert (r["prev_bytes"], r["prev_packets"], r["prev_retransmits"]) == (len(BODY), 1, 0)


def test_share(loaded: tuple[Capture, Programs]) -> None:
    """A part of the connections, the same at each point and whatever NAT does to their addresses."""
    capture = loaded[0]
    told: list[set[int]] = []
    n, share = 2000, 0.25
    for ends in ((A4, B4), ("10.9.9.9", B4)):
        programs = Programs(capture.object.map_fd("zs_ring"), capture.object.map_fd("zs_counts"), share)
        bench = Bench(capture, programs)
        for i in range(n):
            syn = tcp(2000 + i, b"", seq=i * 77777 + 1, flags=SYN)
            answer = tcp(2000 + i, b"", seq=i * 99991 + 5, ack=i * 77777 + 2, flags=SYN | ACK, back=True)
            bench.run(ethernet(IP4, ip4(syn, ends)))
            bench.run(ethernet(IP4, ip4(answer, ends[::-1])), program="zs_nic_out")
            bench.run(ethernet(IP4, ip4(first(2000 + i, seq=i * 77777 + 2), ends)))
        told.append({r["src_port"] for r in bench.drain()})
        assert bench.counted()["nic_left_out"] == n - len(told[-1])
        programs.close()
    assert told[0] == told[1]
    assert 0.2 < len(told[0]) / n < 0.3


def test_share_without_sequence_numbers(loaded: tuple[Capture, Programs]) -> None:
    """By the addresses then; both directions and all interfaces agree."""
    capture = loaded[0]
    programs = Programs(capture.object.map_fd("zs_ring"), capture.object.map_fd("zs_counts"), 0.5)
    bench = Bench(capture, programs)
    for i in range(400):
        there = ethernet(IP4, ip4(first(2000 + i)))
        back = ethernet(IP4, ip4(first(2000 + i, back=True), (B4, A4)))
        assert len(bench.run(there)) == len(bench.run(back, program="zs_nic_out"))
    told = {(r["src_port"], r["dst_port"]) for r in bench.drain()}
    assert 120 < len({p for p, q in told if q == 80}) < 280
    assert {p for p, q in told if q == 80} == {q for p, q in told if p == 80}
    programs.close()


def test_table_is_bounded(loaded: tuple[Capture, Programs]) -> None:
    """More connections than it holds: the oldest are forgotten, and met again as unknown ones."""
    capture = loaded[0]
    programs = Programs(capture.object.map_fd("zs_ring"), capture.object.map_fd("zs_counts"), 1.0, flows=512)
    bench = Bench(capture, programs)
    for i in range(3000):
        bpf.run_packet(programs.maps.program_fd("zs_nic_in"), ethernet(IP4, ip4(tcp(2000 + i, b"", flags=SYN))))
    assert not bench.drain()
    assert not bench.counted().get("nic_midway")
    assert len(bench.run(ethernet(IP4, ip4(first(2000, seq=1001))))) == 1
    assert bench.counted()["nic_midway"] == 1
    programs.close()

"""The table of translated connections: what is answered for, what leaves, what it weighs; hostile netlink bytes."""

import random
import tracemalloc

from zerospan.enricher import keys
from zerospan.enricher.sources.ctnetlink import CT_NEW, parse
from zerospan.enricher.sources.nat_table import ENTRY_BYTES, SLACK_NS, NatTable, swapped
from zerospan.exporter.source.netlink import attribute

S = 10**9


def ends(own: str, port: int, peer: str, peer_port: int, protocol: int = keys.UDP) -> bytes:
    return keys.connection(own, port, peer, peer_port, protocol)[1:]


ORIGINAL = ends("10.0.0.1", 40000, "10.96.0.1", 53)
REPLY = ends("10.0.0.9", 5353, "10.0.0.1", 40000)


def test_times_tell_apart_what_uses_a_tuple_again() -> None:
    table = NatTable(1 << 20, 100 * S)
    other = ends("10.0.0.8", 5353, "10.0.0.1", 40000)
    assert table.add(ORIGINAL, REPLY, 1000 * S) and not table.add(ORIGINAL, REPLY, 1001 * S)
    assert table.add(ORIGINAL, other, 1010 * S)  # its end was not told
    assert table.end(ORIGINAL, 1020 * S) and not table.end(ORIGINAL, 1021 * S)

    def peer(at: int) -> bytes | None:
        found = table.ends(ORIGINAL, at)
        return found.peer if found is not None else None

    assert peer(1005 * S) == REPLY[:18] and peer(1015 * S) == other[:18]
    assert peer(1000 * S - SLACK_NS) == REPLY[:18]  # told late
    assert peer(1000 * S - SLACK_NS - 1) is None and peer(1020 * S) is None
    assert peer(1010 * S - 1) == REPLY[:18] and peer(1010 * S) == other[:18]
    table.sweep(1111 * S)
    assert peer(1005 * S) is None and peer(1015 * S) == other[:18]
    table.sweep(1200 * S)
    assert len(table) == 0 and not table._original and not table._reply


def test_each_end_and_each_direction_gets_the_same_two_ends() -> None:
    table = NatTable(1 << 20, S)
    reply = ends("10.0.0.9", 5353, "10.0.0.254", 1024)  # DNAT and SNAT
    table.add(ORIGINAL, reply, 1)
    client, server = ORIGINAL[:18], reply[:18]
    for seen, own, peer in (
        (ORIGINAL, client, server),
        (swapped(ORIGINAL), server, client),
        (reply, server, client),
        (swapped(reply), client, server),
    ):
        found = table.ends(seen, 5)
        assert found is not None and (found.own, found.peer) == (own, peer)
        assert found.own_is_client == (own == client)
    assert table.ends(ends("10.0.0.1", 40001, "10.96.0.1", 53), 5) is None
    assert table.ends(ends("10.0.0.1", 40000, "10.96.0.1", 53, keys.TCP), 5) is None


def test_a_circle_of_translations_ends() -> None:
    table = NatTable(1 << 20, S)
    a, b = ends("10.0.0.1", 1, "10.0.0.2", 2), ends("10.0.0.3", 3, "10.0.0.4", 4)
    table.add(a, swapped(b), 1)
    table.add(b, swapped(a), 1)
    assert table.ends(a, 5) is not None and table.ends(b, 5) is not None


def test_ended_ones_make_room_and_what_finds_none_is_counted() -> None:
    table = NatTable(ENTRY_BYTES * 100, 100 * S)
    for i in range(100):
        assert table.add(ends("10.0.0.1", i + 1, "10.96.0.1", 53), ends("10.0.0.9", 53, "10.0.0.1", i + 1), i + 1)
    assert not table.add(ends("10.0.0.1", 200, "10.96.0.1", 53), REPLY, 200) and table.refused == 1
    table.end(ends("10.0.0.1", 7, "10.96.0.1", 53), 300)
    assert table.add(ORIGINAL, REPLY, 301) and table.evicted == 1 and len(table) == 100
    assert table.ends(ends("10.0.0.1", 7, "10.96.0.1", 53), 8) is None
    assert table.end_others(9, 400, frozenset({0})) == 100


def test_old_ones_are_counted_as_a_slow_look_counts_them() -> None:
    rng, table, seen = random.Random(8), NatTable(ENTRY_BYTES * 40, 5 * S), set()
    for now in range(1, 4000):
        one = ends("10.0.0.1", rng.randrange(60) + 1, "10.96.0.1", 53)
        what = rng.random()
        if what < 0.5:
            reply = ends("10.0.0.9", 53, "10.0.0.1", rng.randrange(3) + 1)
            table.add(one, reply, now * S if rng.random() < 0.8 else 0, rng.randrange(3))
        elif what < 0.9:
            table.end(one, now * S)
        elif what < 0.95:
            table.end_others(rng.randrange(3), now * S, frozenset({rng.randrange(3)}))
        else:
            table.sweep(now * S)
        open_ones = [nat for found in table._original.values() for nat in found if not nat.until_ns]
        old = any(not nat.since_ns for nat in open_ones)
        assert table.has_old() == old
        seen.add(old)
    assert seen == {False, True}


def test_its_bytes_are_those_it_says() -> None:
    n = 20_000
    tracemalloc.start()
    table = NatTable(n * ENTRY_BYTES, S)
    before = tracemalloc.get_traced_memory()[0]
    for i in range(n):
        low, high = i % 60000 + 1, i // 60000
        original = ends(f"10.1.{high}.1", low, "10.96.0.1", 53)
        table.add(original, ends("10.0.0.9", 5353, f"10.1.{high}.1", low), 1)
    each = (tracemalloc.get_traced_memory()[0] - before) / n
    for nats in list(table._original.values()):
        table.end(nats[0].original, 2)
    ended = (tracemalloc.get_traced_memory()[0] - before) / n
    tracemalloc.stop()
    assert len(table) == n and table.refused == 0
    print(f"{each:.0f} bytes each, {ended:.0f} when ended")
    assert ENTRY_BYTES / 2 < each <= ended <= ENTRY_BYTES


def message(original: tuple[str, int, str, int], reply: tuple[str, int, str, int], status: int = 0x20) -> bytes:
    def tuple_of(t: tuple[str, int, str, int]) -> bytes:
        ip = attribute(1, keys.packed(t[0])[12:]) + attribute(2, keys.packed(t[2])[12:])
        proto = attribute(1, b"\x11") + attribute(2, t[1].to_bytes(2, "big")) + attribute(3, t[3].to_bytes(2, "big"))
        return attribute(0x8001, ip) + attribute(0x8002, proto)

    return (
        b"\x02\0\0\0"
        + attribute(0x8001, tuple_of(original))
        + attribute(0x8002, tuple_of(reply))
        + attribute(3, status.to_bytes(4, "big"))
    )


def test_messages_are_read_and_whatever_is_none_is_left_out() -> None:
    whole = message(("10.0.0.1", 40000, "10.96.0.1", 53), ("10.0.0.9", 5353, "10.0.0.1", 40000))
    event = parse(CT_NEW, whole)
    assert event is not None and (event.original, event.reply, event.ended) == (ORIGINAL, REPLY, False)
    assert parse(CT_NEW, message(("10.0.0.1", 1, "10.0.0.2", 2), ("10.0.0.2", 2, "10.0.0.1", 1))) is None
    assert parse(CT_NEW, message(("10.0.0.1", 1, "10.0.0.2", 2), ("10.0.0.3", 2, "10.0.0.1", 1), status=0xE)) is None
    assert parse(99, whole) is None
    for i in range(len(whole)):
        cut = parse(CT_NEW, whole[:i])
        assert cut is None or cut == event
    random.seed(7)
    for _ in range(20_000):
        wild = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            wild[random.randrange(len(wild))] = random.randrange(256)
        found = parse(CT_NEW, bytes(wild))
        assert found is None or len(found.original) == len(found.reply) == 37

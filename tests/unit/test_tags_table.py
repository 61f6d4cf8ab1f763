"""Whose an address is: by time, asked for once, bounded; a restarted enricher and one that is away."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tags_kit import FOUND, NODE, NOT_ANSWERED, NOT_ASKED, NOTHING_KNOWN, World

from zerospan.enricher import keys

S = 1_000_000_000


def test_an_address_is_asked_for_once_and_then_known() -> None:
    w = World()
    w.pod("10.0.0.7", "cart")
    assert [w.find("10.0.0.7") for _ in range(3)] == [(None, NOT_ANSWERED)] * 3
    w.turn()
    assert w.client.asked.count(keys.address("10.0.0.7")) == 1
    assert w.find("10.0.0.7") == ("cart", FOUND)


def test_nothing_is_known_is_an_answer_that_stays() -> None:
    w = World()
    w.find("10.0.0.8")
    w.turn()
    for _ in range(5):
        assert w.find("10.0.0.8") == (None, NOTHING_KNOWN)
        w.turn()
    assert w.client.asked.count(keys.address("10.0.0.8")) == 1
    assert w.follower.status()["negative"] == 2  # and the node
    w.pod("10.0.0.8", "late", since_ns=5)  # and what is learned later is told
    w.turn()
    assert w.find("10.0.0.8") == ("late", FOUND)


def test_an_address_that_is_used_again_is_told_apart_by_time() -> None:
    """Against the store's own answers, at every edge."""
    w = World()
    rng = random.Random(7)
    times = sorted(rng.sample(range(10, 1000), 6))
    for i, since in enumerate(times):
        w.pod("10.0.0.9", f"pod{i}", since)
    gap = times[-1] + 10
    w.store.end(keys.address("10.0.0.9"), layer=5, at_ns=gap)  # type: ignore[arg-type]
    w.find("10.0.0.9")
    w.turn()
    for t in {edge + d for edge in [*times, gap] for d in (-1, 0, 1)}:
        tags = w.store.find(keys.address("10.0.0.9"), t)
        assert w.find("10.0.0.9", t)[0] == (tags.get("service.name") if tags else None), t


def test_a_port_goes_before_its_address() -> None:
    w = World()
    w.put(keys.address("10.0.0.1"), {"k8s.node.name": "n1", "host.name": "n1"})
    w.put(keys.endpoint("10.0.0.1", 30080), {"k8s.service.name": "shop", "zerospan.k8s.service.type": "NodePort"})
    w.find("10.0.0.1", port=30080)
    w.find("10.0.0.1", port=22)
    w.turn()
    assert w.find("10.0.0.1", port=30080) == ("shop", FOUND)
    assert w.find("10.0.0.1", port=22) == ("", FOUND), "a node has no service's name"
    assert w.table.peer_at(keys.packed("10.0.0.1"), 30080, 17, w.at)[0] == "", "another protocol's port"


def test_a_clients_port_is_looked_up_and_never_asked_for() -> None:
    w = World()
    for port in range(40000, 40100):
        w.find("10.0.0.5", port=port, server=False)
    w.turn()
    assert w.client.asked.count(keys.address("10.0.0.5")) == 1
    assert not [key for key in w.client.asked if key[:1] == keys.ENDPOINT]
    w.put(keys.endpoint("10.0.0.5", 40001), {"service.name": "behind SNAT"}, node=NODE)  # told without asking
    w.turn()
    assert w.find("10.0.0.5", port=40001, server=False) == ("behind SNAT", FOUND)
    assert w.find("10.0.0.5", port=40002, server=False) == (None, NOTHING_KNOWN)


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "127.8.8.8", "::1", "::", "0.0.0.0", "224.0.0.251", "ff02::1", "fe80::1", "::ffff:127.0.0.1"]
)
def test_addresses_of_no_host_are_not_asked_for(ip: str) -> None:
    w = World()
    assert w.find(ip) == (None, NOT_ASKED)
    w.turn()
    assert [key for key in w.client.asked if key[:1] in b"ae"] == []


def test_both_forms_of_an_ipv4_address_are_one() -> None:
    w = World()
    w.pod("10.0.0.7", "cart")
    w.table.peer_at(bytes([10, 0, 0, 7]), 0, 6, w.at)
    w.turn()
    assert w.table.peer_at(bytes([10, 0, 0, 7]), 0, 6, w.at) == ("cart", FOUND)
    assert w.find("::ffff:10.0.0.7") == ("cart", FOUND)
    assert w.table.n == 1


def test_what_is_unused_is_let_go_and_asked_for_again() -> None:
    w = World(unused_s=10)
    w.pod("10.0.0.1", "used")
    w.pod("10.0.0.2", "unused")
    for ip in ("10.0.0.1", "10.0.0.2"):
        w.find(ip)
    w.turn()
    for _ in range(12):
        w.step(2.0)
        assert w.find("10.0.0.1") == ("used", FOUND)
    w.turn()
    assert keys.address("10.0.0.2") not in w.client.wanted and keys.address("10.0.0.1") in w.client.wanted
    assert w.table.n == 1
    assert not w.follower.answered(keys.address("10.0.0.2"))
    assert w.find("10.0.0.2") == (None, NOT_ANSWERED)
    w.turn()
    assert w.find("10.0.0.2") == ("unused", FOUND)


def test_memory_is_bounded_and_the_oldest_leave_first() -> None:
    limit = 4 << 20
    w = World(cache_bytes=limit)
    name = "x" * 200
    ips = [f"10.1.{i >> 8}.{i & 255}" for i in range(12000)]
    for ip in ips:
        w.pod(ip, f"{ip}-{name}")
    most = 0
    for at in range(0, len(ips), 400):
        for ip in ips[at : at + 400]:
            w.find(ip)
        w.find(ips[0])  # this one is always in use
        w.step(2.0)
        for _ in range(4):
            w.turn()
        most = max(most, w.follower.nbytes())
    for _ in range(50):
        w.turn()
    assert w.follower.nbytes() <= limit
    assert most < 2 * limit, "one step's words are all that may go beyond"
    assert w.find(ips[0])[1] == FOUND, "what is in use has left"
    found = [w.find(ip)[1] == FOUND for ip in ips[1:]]
    assert any(found) and not all(found)
    first = found.index(True)
    assert all(found[first:]), "not the oldest have left"
    assert w.follower.status()["events"]["evicted"] >= first
    assert w.follower.status()["events"]["resyncs"] == 0, "making room is no fault"
    assert len(w.client.wanted) < 2 * sum(found) + 100, "what has left is still asked for"


def test_questions_are_bounded_and_what_is_not_asked_is_counted() -> None:
    w = World(limit=1 << 14)
    w.client.connected = False
    for i in range(20000):
        w.find(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
        if i % 500 == 0:
            w.turn()
    counts = w.table.counts()
    assert counts["unanswered"] <= 4096
    assert counts["asked"] == counts["unanswered"]
    assert counts["ask_dropped"] + counts["unanswered"] == 20000
    w.client.connected = True
    w.turn()
    for _ in range(5):
        w.turn()
    assert w.table.counts()["unanswered"] == 0


def test_away_the_last_word_stands_and_a_restart_catches_up() -> None:
    w = World()
    w.pod("10.0.0.1", "stays")
    w.pod("10.0.0.2", "goes")
    for ip in ("10.0.0.1", "10.0.0.2"):
        w.find(ip)
    w.turn()
    w.client.connected = False
    w.turn()
    assert w.table.away
    assert w.find("10.0.0.1") == ("stays", FOUND)
    # it comes back with nothing in its store yet, says so, and learns again
    old = w.client
    fresh = World()
    old.store = fresh.store
    old.connected, old.in_sync, old.revision = True, False, 0
    old.push(reset=True)
    w.turn(push=False)
    assert not w.table.away
    assert w.find("10.0.0.1") == ("stays", FOUND), "it has only begun to look"
    fresh.pod("10.0.0.1", "stays")
    fresh.pod("10.0.0.3", "new")
    w.find("10.0.0.3")
    w.turn()
    assert w.find("10.0.0.2") == ("goes", FOUND)
    old.in_sync = True
    old.push()
    w.turn()
    assert w.find("10.0.0.1") == ("stays", FOUND)
    assert w.find("10.0.0.3") == ("new", FOUND)
    assert w.find("10.0.0.2")[0] is None, "it has gone while the enricher was away"


def test_what_has_gone_while_the_enricher_was_away_is_an_answer() -> None:
    """Said while it began to look, and not again: neither is it unanswered for good, nor asked for in vain."""
    w = World()
    w.put(keys.container("c1"), {"k8s.pod.name": "p"})
    w.pod("10.0.0.2", "goes")
    w.follower.want((keys.container("c1"),))
    w.find("10.0.0.2")
    w.turn()
    w.client.store = World().store
    w.client.in_sync, w.client.revision = False, 0
    w.client.push(reset=True)  # it knows nothing yet, and says so
    w.client.in_sync = True
    w.client.push()
    w.turn()
    assert w.find("10.0.0.2")[1] == NOTHING_KNOWN
    assert w.follower.answered(keys.container("c1")) and w.follower.find(keys.container("c1")) is None


def test_a_set_that_was_forgotten_makes_all_come_anew() -> None:
    w = World()
    w.pod("10.0.0.1", "a")
    w.find("10.0.0.1")
    w.turn()
    w.follower.mirror.forget(keys.address("10.0.0.1"))
    w.follower.mirror.prune()
    w.store.put(keys.address("10.0.0.1"), w.store.make({"x": "y"}), layer=6, since_ns=2)  # type: ignore[arg-type]
    w.client.sent |= {s.tags.id for s in w.store.pieces(keys.address("10.0.0.1"))}
    with pytest.raises(KeyError):
        w.client.push()
    assert w.follower.status()["events"]["resyncs"] == 1
    w.client.push(reset=True)
    assert w.follower.answered(keys.address("10.0.0.1"))


def test_what_was_let_go_for_room_may_be_spoken_with_again() -> None:
    """The enricher tells a set once a stream: what was pruned comes by a new one, without a fault."""
    w = World(cache_bytes=1 << 20)
    ips = [f"10.1.{i >> 8}.{i & 255}" for i in range(3000)]
    for ip in ips:
        w.pod(ip, f"{ip}-{'x' * 200}")
    for _ in range(3):
        for at in range(0, len(ips), 300):
            for ip in ips[at : at + 300]:
                w.find(ip)
            for _ in range(4):
                w.step(1.0)
                w.turn()
            for ip in ips[at : at + 300]:
                assert w.find(ip)[0] in (None, f"{ip}-{'x' * 200}")
    events = w.follower.status()["events"]
    assert events["evicted"] > len(ips) and not events["resyncs"]


def test_against_a_plain_model() -> None:
    """Any order of puts, ends, lookups, time and evictions: what is found is what the store says."""
    rng = random.Random(11)
    w = World(unused_s=15)
    ips = [f"10.0.1.{i}" for i in range(40)]
    for turn in range(400):
        w.at += 5
        ip = rng.choice(ips)
        what = rng.random()
        if what < 0.3:
            w.pod(ip, f"p{turn}", w.at)
        elif what < 0.45:
            w.store.end(keys.address(ip), layer=5, at_ns=w.at)  # type: ignore[arg-type]
        elif what < 0.5:
            w.table.evict(3)
        w.step(rng.choice([0.01, 1.0, 5.0]))
        if rng.random() < 0.8:
            w.turn()
            for each in rng.sample(ips, 5):
                at = w.at - rng.randrange(0, 60)
                name, why = w.find(each, at)
                tags = w.store.find(keys.address(each), at)
                if why in (FOUND, NOTHING_KNOWN):
                    assert name == (tags.get("service.name") if tags else None), (turn, each, at)
    assert w.table.n <= len(ips)

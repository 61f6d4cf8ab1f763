"""What is said to Redis, what it answers in whatever pieces, and what a URL says."""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path

import pytest

from zerospan.exporter.config import ConfigError, Url, describe, load
from zerospan.exporter.link.shared_codec import encode, stored_as
from zerospan.exporter.link.shared_wire import Replies, commands, split
from zerospan.exporter.link.store import StoreError, parse, slots

ITEM = struct.Struct("=QcBH")


def put(key: int, end: bytes, value: bytes, datagram: int = 0) -> bytes:
    return ITEM.pack(key, end, datagram, len(value)) + value


def question(key: int, end: bytes) -> bytes:
    return struct.pack("=Qc", key, end)


def resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def test_a_round_in_resp() -> None:
    value = encode("c", 5, name=b"shop")
    data, n = commands(put(5, b"c", value) + put(6, b"s", b"x", 1), question(7, b"s") + question(8, b"c"), 60000, 10000)
    assert n == 2
    assert data == (
        resp(b"SET", stored_as(5, "c"), value, b"PX", b"60000")
        + resp(b"SET", stored_as(6, "s"), b"x", b"PX", b"10000")
        + resp(b"MGET", stored_as(7, "s"), stored_as(8, "c"))
    )
    data, _ = commands(b"", question(7, b"s") + question(8, b"c"), 1, 1, True)
    assert data == resp(b"GET", stored_as(7, "s")) + resp(b"GET", stored_as(8, "c"))
    assert commands(b"", b"", 1, 1) == (b"", 0)


def test_a_large_round_asks_in_groups() -> None:
    data, _ = commands(b"", b"".join(question(i + 1, b"c") for i in range(1025)), 1, 1)
    assert data.count(b"MGET") == 3 and data.startswith(b"*513\r\n") and b"*2\r\n$4\r\nMGET" in data


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("single", [False, True])
def test_answers_in_any_pieces(seed: int, single: bool) -> None:
    """Every value comes to its question, however the stream is cut; a refused SET or MGET costs only itself."""
    rng = random.Random(seed)
    replies = Replies(single)
    stream, expected, stored, errors, rounds = b"", b"", 0, 0, 0
    for _ in range(rng.randrange(1, 6)):
        sets, keys = rng.randrange(5), [rng.randrange(1, 1 << 64) for _ in range(rng.randrange(700))]
        gets = b"".join(question(k, b"c") for k in keys)
        if not sets and not keys:
            continue
        rounds += 1
        replies.expect(sets, gets)
        for _ in range(sets):
            refused = rng.random() < 0.2
            stream += b"-OOM no room\r\n" if refused else b"+OK\r\n"
            errors += refused
            stored += not refused
        while keys:
            group = keys[: 1 if single else 512]
            del keys[: len(group)]
            if rng.random() < 0.1:
                stream += b"-LOADING dataset\r\n"
                continue
            stream += b"" if single else b"*%d\r\n" % len(group)
            for key in group:
                if rng.random() < 0.5:
                    stream += b"$-1\r\n"
                else:
                    value = rng.randbytes(rng.randrange(0, 300))
                    stream += b"$%d\r\n%b\r\n" % (len(value), value)
                    expected += put(key, b"c", value)
    got, done = b"", 0
    while stream:
        n = rng.choice([1, 3, 100, 10000])
        done += replies.feed(stream[:n])
        stream = stream[n:]
        got += replies.take()
    assert done == rounds and got == expected
    assert (replies.stored, replies.errors) == (stored, errors)


BROKEN = [
    b"+OK\r\n+OK\r\n", b"*3\r\n", b"*1\r\n*1\r\n", b"$5\r\nhello\r\n", b"*1\r\n$99999999999999\r\n", b"*1\r\n$x\r\n",
    b"?\r\n", b"\n", b"*1\r\n$-1\r\n$-1\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"x" * 5000, b"*-1\r\n", b"%1\r\n",
    b"*1\r\n-ERR\r\n", b"*1\r\n$-7\r\n",
]  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_no_answer_ends_the_connection(said: bytes) -> None:
    replies = Replies()
    replies.expect(0, question(1, b"c"))
    with pytest.raises(ValueError):
        replies.feed(said)


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_answers(seed: int) -> None:
    """Whatever a store says: an answer, an error, or the end of the connection; no value that was not asked for."""
    rng = random.Random(seed)
    good = b"+OK\r\n*2\r\n$3\r\nabc\r\n$-1\r\n-ERR x\r\n*1\r\n$0\r\n\r\n"
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.choice(b"+-*$:0123456789\r\nx\xff")
        replies = Replies()
        replies.expect(1, question(1, b"c") + question(2, b"s"))
        replies.expect(1, question(3, b"c"))
        got = b""
        try:
            while data:
                n = rng.randrange(1, 9)
                replies.feed(bytes(data[:n]))
                del data[:n]
                got += replies.take()
        except ValueError:
            pass
        keys = []
        while got:
            key, _, _, n = ITEM.unpack_from(got)
            keys.append(key)
            got = got[ITEM.size + n :]
        assert len(keys) == len(set(keys)) and set(keys) <= {1, 2, 3}


def test_an_oversized_value_is_left_out() -> None:
    replies = Replies()
    replies.expect(0, question(1, b"c") + question(2, b"c"))
    assert replies.feed(b"*2\r\n$5000\r\n" + b"x" * 5000 + b"\r\n$2\r\nhi\r\n") == 1
    assert replies.take() == put(2, b"c", b"hi") and replies.oversized == 1


def slot(key: bytes) -> int:
    """The cluster specification's formula, bit by bit."""
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def test_a_cluster_is_asked_node_by_node() -> None:
    assert slot(b"123456789") == 0x31C3, "the specification's own example"
    rng = random.Random(3)
    keys = [rng.randrange(1, 1 << 64) for _ in range(300)]
    owners = array("H", [s * 3 // 16384 for s in range(16384)])
    parts = split(b"".join(put(k, b"c", b"v") for k in keys), b"".join(question(k, b"s") for k in keys), owners, 3)
    for node, (puts, gets) in enumerate(parts):
        assert puts == b"".join(put(k, b"c", b"v") for k in keys if owners[slot(stored_as(k, "c"))] == node)
        assert gets == b"".join(question(k, b"s") for k in keys if owners[slot(stored_as(k, "s"))] == node)


def test_slots_of_a_cluster() -> None:
    said = [[0, 99, [b"10.0.0.1", 7000, b"id"]], [100, 16383, [b"", 7001, b"id"], [b"10.0.0.3", 7002, b"replica"]]]
    owners, nodes = slots(said, "seed")
    assert nodes == [("10.0.0.1", 7000), ("seed", 7001)] and owners[99] == 0 and owners[100] == 1
    for bad in (
        [],
        None,
        b"x",
        [[0, 16384, [b"h", 1]]],
        [[5, 4, [b"h", 1]]],
        [[0, 1, [b"h", 0]]],
        [[0, 1]],
        [[0, 1, []]],
    ):
        with pytest.raises(StoreError):
            slots(bad, "seed")


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "more"),
    [
        ("redis://h", "single", (("h", 6379),), {}),
        ("redis://:p%40ss@h:7/3", "single", (("h", 7),), {"password": "p@ss", "username": None, "db": 3}),
        ("rediss://u:p@[::1]:7/0?ssl_cert_reqs=none", "single", (("::1", 7),), {"username": "u", "tls": True}),
        ("valkeys://h", "single", (("h", 6379),), {"tls": True}),
        ("redis://h?db=2", "single", (("h", 6379),), {"db": 2}),
        ("redis+cluster://u:p@a,b:7001", "cluster", (("a", 6379), ("b", 7001)), {"password": "p"}),
        ("rediss-cluster://a", "cluster", (("a", 6379),), {"tls": True}),
        ("redis+sentinel://:p@a,b:5/main/4", "sentinel", (("a", 26379), ("b", 5)), {"master": "main", "db": 4}),
        ("redis-sentinel://a/4#main", "sentinel", (("a", 26379),), {"master": "main", "db": 4}),
        ("unix:///run/redis.sock?db=1", "single", (), {"path": "/run/redis.sock", "db": 1}),
    ],
)
def test_urls(url: str, kind: str, addresses: tuple[tuple[str, int], ...], more: dict[str, object]) -> None:
    store = parse(Url(url))
    assert store.kind == kind and store.addresses == addresses
    assert {name: getattr(store, name) for name in more} == more


BAD = [
    "http://h", "redis://", "redis://:hush@", "redis://h/x", "redis://h/1/2", "redis+sentinel://h", "redis+cluster://h/1",
    "redis://h:0", "redis://h:x", "redis://h?sll_ca_certs=/x", "unix://", "redis+other://h", "redis://a,,b", "yes",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_urls_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as e:
        parse(Url(url))
    assert "hush" not in str(e.value)
    with pytest.raises(ConfigError, match="links"):
        load(None, {"ZEROSPAN_LINKS": url})


def test_the_password_is_not_shown() -> None:
    config = load(None, {"ZEROSPAN_LINKS": "redis://me:hush@h/1"})
    assert config.links.reveal() == "redis://me:hush@h/1"
    assert describe(config)["links"] == "redis://***@h/1" and "hush" not in repr(config)
    assert load(None, {}).links.reveal() == "memory"

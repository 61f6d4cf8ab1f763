"""The OTLP proxy's HTTP port: HTTP/1.1 as clients speak it, as they should not, slowly, too often, and as noise."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from otlp_cases import SHOP, traces
from proxy_kit import CONTAINER, GrpcReceiver, Stub, grpc_receiver, post, proxy
from sink_receivers import Answer, receiver, until

from zerospan.enricher.proxy.ledger import Ledger
from zerospan.enricher.proxy.server_http import GIVEN, MEMBERS

MINE = {"service_name": "mine", "container_id": CONTAINER}
BODY = traces(MINE).SerializeToString()


@pytest.fixture
def there() -> Iterator[GrpcReceiver]:
    with grpc_receiver() as made:
        yield made


def raw(port: int, *parts: bytes) -> bytes:
    """What an HTTP connection answers until it ends."""
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        for part in parts:
            s.sendall(part)
        s.shutdown(socket.SHUT_WR)
        out = b""
        while part := s.recv(65536):
            out += part
        return out


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


def test_http_as_it_is_spoken(there: GrpcReceiver) -> None:
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    half = len(BODY) // 2
    chunked = b"%x;x=y\r\n%b\r\n%X\r\n%b\r\n0\r\nTrailer: 1\r\n\r\n" % (
        half,
        BODY[:half],
        len(BODY) - half,
        BODY[half:],
    )
    with proxy(f"http://127.0.0.1:{there.port}") as made:
        assert raw(made.http_port, whole, whole, whole[:50], whole[50:]).count(b"HTTP/1.1 200 OK") == 3
        assert raw(made.http_port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked).startswith(b"HTTP/1.1 200")
        expecting = HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        assert raw(made.http_port, expecting, BODY).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
        zipped = gzip.compress(BODY[:half]) + gzip.compress(BODY[half:])
        assert post(made.http_port, zipped, Content_Encoding="gzip")[0] == 200
        big = traces(MINE, text="y" * 100_000).SerializeToString()
        assert post(made.http_port, gzip.compress(big), Content_Encoding="gzip")[0] == 200
        assert len(there.requests) == 7
        refused = HEAD + b"Content-Encoding: br\r\nContent-Length: 4\r\n\r\nabcd"
        assert raw(made.http_port, refused, whole).count(b"HTTP/1.1 200 OK") == 1, "the connection goes on"
        for wrong, status in (
            (b"GET /v1/traces HTTP/1.1\r\n\r\n", 405),
            (b"POST /v1/spans HTTP/1.1\r\n\r\n", 404),
            (b"nonsense\r\n\r\n", 400),
            (b"POST /v1/traces HTTP/2.0\r\n\r\n", 505),
            (HEAD + b"\r\n", 400),
            (HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
            (HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nabcde", 400),
            (HEAD + b"Bad : header\r\n\r\n", 400),
            (HEAD + b"X: a\nb\r\n\r\n", 400),
            (HEAD + b"X: %b\r\n\r\n" % (b"y" * 100_000), 400),
            (HEAD + b"X: %b\r\n\r\n" % (b"y" * 400_000), 400),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
        ):
            assert raw(made.http_port, wrong).startswith(b"HTTP/1.1 %d " % status), wrong[:80]
        assert made.stats().not_found == 11


def test_slow_and_many_senders(there: GrpcReceiver) -> None:
    endpoint = f"http://127.0.0.1:{there.port}"
    with proxy(endpoint, read_s=0.3, idle_s=1, max_senders=3) as made:
        slow = socket.create_connection(("127.0.0.1", made.http_port), 10)
        slow.sendall(HEAD + b"Content-Length: 100\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        half = socket.create_connection(("127.0.0.1", made.http_port), 10)
        half.sendall(b"POST /v1/tr")
        assert half.recv(100) == b""
        slow.close()
        until(lambda: made.stats().connections == 0)
        idle = [socket.create_connection(("127.0.0.1", made.http_port), 10) for _ in range(3)]
        until(lambda: made.stats().connections == 3)
        more = socket.create_connection(("127.0.0.1", made.http_port), 10)
        with pytest.raises(OSError):
            assert more.recv(100) == b""
            raise OSError
        until(lambda: made.stats().connections == 0)  # idle_s
        assert made.stats().turned_away == 1
        assert post(made.http_port, BODY)[0] == 200
        assert made.stats().signals["traces"].refused == {"not_read": 1}
        for s in (slow, half, more, *idle):
            s.close()


def test_noise_on_the_http_port(there: GrpcReceiver) -> None:
    """Mutated requests: every connection ends, what was counted is settled, and a good request still gets through."""
    good = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    zipped = gzip.compress(BODY)
    packed = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(zipped) + zipped
    with proxy(f"http://127.0.0.1:{there.port}", read_s=0.2, idle_s=1, retry_max_s=0.2) as made:
        for seed in range(300):
            rng = random.Random(seed)
            data = bytearray(rng.choice([good, chunked, packed]))
            for _ in range(rng.randrange(1, 5)):
                at = rng.randrange(min(len(data), rng.choice([60, 200, 4000])))
                data[at : at + rng.choice([0, 1, 3])] = rng.choice(
                    [b"\r\n", b"\0", b"9", b"f", b":", b"HTTP/1.1", rng.randbytes(2)]
                )
            with contextlib.suppress(ConnectionError):
                raw(made.http_port, bytes(data[: rng.choice([10, 100, 10**6])]))
        assert raw(made.http_port, good).startswith(b"HTTP/1.1 200 ")
        stats = made.stats()
        assert "internal_error" not in stats.signals["traces"].refused
        assert stats.signals["traces"].forwarded == len(there.requests)
        assert stats.not_found > 10 and stats.signals["traces"].refused["malformed"] > 10


def test_no_host_is_every_address(there: GrpcReceiver) -> None:
    with proxy(f"http://127.0.0.1:{there.port}", listen_grpc=":0", listen_http=":0") as made:
        for host in ("127.0.0.1", "[::1]"):
            with grpc.insecure_channel(f"{host}:{made.grpc_port}") as channel:
                channel.unary_unary(Stub.METHODS["traces"])(BODY, timeout=10)
            socket.create_connection((host.strip("[]"), made.http_port), 5).close()


def test_listens_on_ipv6(there: GrpcReceiver) -> None:
    with proxy(f"http://127.0.0.1:{there.port}", listen_grpc="[::1]:0", listen_http="[::1]:0") as made:
        with grpc.insecure_channel(f"[::1]:{made.grpc_port}") as channel:
            channel.unary_unary(Stub.METHODS["traces"])(traces(SHOP).SerializeToString(), timeout=10)
        with socket.create_connection(("::1", made.http_port), 5) as s:
            s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert s.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_chunk_without_its_end_gives_the_memory_back(there: GrpcReceiver) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b" % (1 << 20, bytes(1 << 20))
    for endless in (chunk + b"\r\n" + b"1" * 200_000, chunk + b"\r\n0\r\n" + b"x" * 200_000):
        with proxy(f"http://127.0.0.1:{there.port}") as made:
            assert raw(made.http_port, head, endless).startswith(b"HTTP/1.1 400 ")
            stats = made.stats()
            assert stats.held_bytes == 0 and stats.signals["traces"].refused == {"malformed": 1}


def test_an_error_of_our_own_gives_the_memory_back(there: GrpcReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> bytes:
        raise RuntimeError("a bug")

    with proxy(f"http://127.0.0.1:{there.port}") as made:
        with monkeypatch.context() as patch:
            patch.setattr("zerospan.enricher.proxy.server_http._exactly", broken)
            assert post(made.http_port, BODY)[0] == 500
        assert post(made.http_port, BODY)[0] == 200
        assert made.stats().signals["traces"].refused == {"internal_error": 1}


def test_a_settled_request_takes_nothing_more() -> None:
    books = Ledger(100)
    entry = books.open("traces")
    entry.refuse("not_read")
    assert not entry.hold(10) and not entry.resize(10) and books.held_bytes == 0
    entry.count(7)
    stats = books.snapshot()["traces"]
    assert stats.balanced() and stats.in_flight_items == stats.received_items == 0


def held(port: int) -> list[str]:
    """Accepted connections of a port that a process has open: with an inode (proc_net_tcp)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [" ".join(x) for x in lines if int(x[1].partition(":")[2], 16) == port and x[3] != "0A" and x[9] != "0"]


def test_a_sender_that_does_not_read_is_let_go() -> None:
    """Its answers wait in our memory: no longer than read_s, and it counts as a connection so long."""
    words = b"x" * 60_000
    with receiver() as site:
        text = json.dumps({"partialSuccess": {"errorMessage": words.decode()}}).encode()
        n = 200
        site.script = [Answer(200, text, {"Content-Type": "application/json"}) for _ in range(n)]
        with proxy(site.url, protocol="http/protobuf", read_s=0.5, idle_s=2, max_senders=1) as made:
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", made.http_port))
            s.settimeout(10)
            s.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY) * n)
            until(lambda: made.stats().signals["traces"].received > 0)
            until(lambda: made.stats().connections == 0)
            assert 0 < made.stats().signals["traces"].received < n, "it was never held up"
            until(lambda: not held(made.http_port), 2)
            s.close()


def test_gzip_of_many_members(there: GrpcReceiver) -> None:
    empty = gzip.compress(b"")
    with proxy(f"http://127.0.0.1:{there.port}") as made:
        some = b"".join(gzip.compress(BODY[i : i + 2]) for i in range(0, len(BODY), 2))
        assert len(BODY) < 2 * MEMBERS and post(made.http_port, some, Content_Encoding="gzip")[0] == 200
        zipped = gzip.compress(BODY) + empty * (MEMBERS - 1)
        assert post(made.http_port, zipped, Content_Encoding="gzip")[0] == 200
        assert post(made.http_port, zipped + empty, Content_Encoding="gzip")[0] == 400
        noise = random.Random(1).randbytes(3 * GIVEN)  # more than is given at once, in and out of step with members
        big = traces(MINE, text=noise.hex()).SerializeToString()
        half = len(big) // 2
        zipped = gzip.compress(big[:half]) + gzip.compress(big[half:])
        assert post(made.http_port, zipped, Content_Encoding="gzip")[0] == 200
        assert post(made.http_port, zipped[:-9], Content_Encoding="gzip")[0] == 400
        assert post(made.http_port, b"", Content_Encoding="gzip")[0] == 400
        assert made.stats().signals["traces"].refused == {"malformed": 3}
    assert len(there.requests) == 3
    sent = traces(MINE, text=noise.hex()).resource_spans[0].scope_spans
    assert there.requests[2].resource_spans[0].scope_spans == sent

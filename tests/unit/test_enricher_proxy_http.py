"""The OTLP proxy's HTTP port: HTTP/1.1 as clients speak it, as they should not, slowly, too often, and as noise."""

from __future__ import annotations

import contextlib
import gzip
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
from sink_receivers import until

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


def test_listens_on_ipv6(there: GrpcReceiver) -> None:
    with proxy(f"http://127.0.0.1:{there.port}", listen_grpc="[::1]:0", listen_http="[::1]:0") as made:
        with grpc.insecure_channel(f"[::1]:{made.grpc_port}") as channel:
            channel.unary_unary(Stub.METHODS["traces"])(traces(SHOP).SerializeToString(), timeout=10)
        with socket.create_connection(("::1", made.http_port), 5) as s:
            s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            assert s.recv(100).startswith(b"HTTP/1.1 200 ")

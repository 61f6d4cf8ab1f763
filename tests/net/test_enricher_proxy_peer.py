"""The connection's own address: a program in a network namespace says nothing of itself, its address does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from otlp_cases import traces
from proxy_kit import grpc_receiver, known, proxy, tags_of

from zerospan.enricher import keys
from zerospan.enricher.source import Layer

NAME = f"zsproxy{os.getpid() % 100000}"
OURS, THEIRS = ("198.18.77.1", "198.18.77.9"), ("2001:db8:77::1", "2001:db8:77::9")  # RFC 2544, RFC 3849
SEND = """
import sys, http.client, grpc
body = sys.stdin.buffer.read()
host, http_port, grpc_port = sys.argv[1:]
c = http.client.HTTPConnection(host.strip("[]"), int(http_port), timeout=10)
c.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
assert c.getresponse().status == 200
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
with grpc.insecure_channel(f"{host}:{grpc_port}") as channel:
    channel.unary_unary(METHOD)(body, timeout=10)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def there() -> Iterator[list[str]]:
    """A namespace with two addresses; the words that run a command in it."""
    ip("netns", "add", NAME)
    try:
        ip("link", "add", f"{NAME}a", "type", "veth", "peer", "name", "eth0", "netns", NAME)
        ip("address", "add", f"{OURS[0]}/24", "dev", f"{NAME}a")
        ip("address", "add", f"{THEIRS[0]}/64", "dev", f"{NAME}a", "nodad")
        ip("link", "set", f"{NAME}a", "up")
        ip("-n", NAME, "address", "add", f"{OURS[1]}/24", "dev", "eth0")
        ip("-n", NAME, "address", "add", f"{THEIRS[1]}/64", "dev", "eth0", "nodad")
        ip("-n", NAME, "link", "set", "eth0", "up")
        ip("-n", NAME, "link", "set", "lo", "up")  # without it grpc takes IPv6 for absent
        yield ["ip", "netns", "exec", NAME]
    finally:
        subprocess.run(["ip", "netns", "del", NAME], check=False)
        subprocess.run(["ip", "link", "del", f"{NAME}a"], check=False, capture_output=True)


@pytest.mark.parametrize(("address", "pod"), [(OURS[0], "fourth"), (f"[{THEIRS[0]}]", "sixth")])
def test_who_says_nothing_is_known_by_its_address(there: list[str], address: str, pod: str) -> None:
    store = known()
    for at, name in ((OURS[1], "fourth"), (THEIRS[1], "sixth")):
        store.put(keys.address(at), store.make({"k8s.pod.name": name}), layer=Layer.KUBERNETES, since_ns=1)
    everywhere = "[::]:0"  # IPv4, too: its peers come as v4-mapped addresses
    with grpc_receiver() as receiver:
        at = f"http://127.0.0.1:{receiver.port}"
        with proxy(at, store, listen_grpc=everywhere, listen_http=everywhere) as made:
            command = [*there, sys.executable, "-c", SEND, address, str(made.http_port), str(made.grpc_port)]
            body = traces({"service_name": "mine"}).SerializeToString()
            done = subprocess.run(command, input=body, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr.decode()
    groups = [r.resource_spans[0] for r in receiver.requests]
    assert [tags_of(group).get("k8s.pod.name") for group in groups] == [pod] * 2
    assert [tags_of(group)["service.name"] for group in groups] == ["mine"] * 2

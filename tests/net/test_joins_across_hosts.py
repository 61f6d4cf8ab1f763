"""SDKs and us are one trace over three hosts: a chain user -> a -> b -> c -> d, agents that share a real Redis.

a is on the first host, b on the second, c and d on the third. Nobody gives the SDK in b or c a context: it begins a
trace, and hosts that never see its header name theirs so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from agent import Agent, spans
from collector import CLIENT, SERVER, Collector
from sharing import Cluster, Node, agents_of, inside_pod, settled, spans_of, store, until
from venvs import python_with

HERE = Path(__file__).parent
PACKAGES = ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2", "requests==2.34.2",
            "opentelemetry-instrumentation-requests==0.66b2", "opentelemetry-propagator-b3==1.45.1",
            "apache-skywalking==1.2.0")  # fmt: skip
REQUESTS, AT_ONCE = 40, 8
PORT = 8080
RULES = [{"match": {"cmdline": f"*relay.py {name} *"}, "name": name} for name in "abcd"]
CALL = """
import http.client, sys
from concurrent.futures import ThreadPoolExecutor
def get(i):
    c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
    c.request("GET", f"/r{i}")
    assert c.getresponse().read() == b"end"
    c.close()
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    list(pool.map(get, range(int(sys.argv[3]))))
"""
Found = dict[tuple[str, str, int], dict[str, Any]]


@pytest.fixture(scope="session")
def python() -> str:
    return python_with(*PACKAGES)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("fourjoin", tunnel=None) as made:
        one, two, three = (made.host(name) for name in ("one", "two", "three"))
        for host, names in ((one, ("user", "a")), (two, ("b",)), (three, ("c", "d"))):
            for name in names:
                host.pod(name)
        yield made


def pods(cluster: Cluster) -> dict[str, Node]:
    return {pod.name: pod for host in cluster.hosts for pod in host.pods}


def drive(
    cluster: Cluster, folder: Path, python: str, sdks: dict[str, str], config: dict[str, Any]
) -> tuple[Found, Collector]:
    """Our spans of all hosts, each once, and what the SDK (one service has one) reported."""
    of = pods(cluster)
    (where,) = sdks
    with inside_pod(of[where]):
        collector = Collector()
    try:
        with collector, store(folder / "store") as port, agents_of(
            cluster, folder, f"redis://127.0.0.1:{port}",
            {"service": {"rules": RULES}, "capture": {"payload_bytes": 2048}, **config},
        ) as agents:  # fmt: skip
            for name, following in zip("dcba", ("", "d", "c", "b"), strict=True):
                argv = [python, str(HERE / "services/relay.py"), name, str(PORT), str(PORT if following else 0),
                        sdks.get(name, "none"), str(collector.port)]  # fmt: skip
                env = {"RELAY_ADDRESS": "0.0.0.0", "RELAY_NEXT": of[following].address if following else ""}
                of[name].run(argv, env={**os.environ, **env})
                of[name].wait_port(PORT)
            of["user"].output([sys.executable, "-c", CALL, of["a"].address, str(PORT), str(REQUESTS), str(AT_ONCE)])
            until(lambda: len(collector.spans) >= 2 * REQUESTS, lambda: f"{len(collector.spans)} spans of the SDK")
            settled(agents)
            return ours(agents), collector
    finally:
        for pod in of.values():
            pod.stop()


def ours(agents: list[Agent]) -> Found:
    out: Found = {}
    for span in spans_of(agents):
        path = span["attributes"].get("url.path", "")
        if path[:2] == "/r" and path[2:].isdigit():
            key = (path, span["service"] if span["service"] in "abcd" else "user", int(span["kind"]))
            assert key not in out, f"two spans of one request at one place: {key}"
            out[key] = span
    return out


def parent(of: Found, path: str, service: str, kind: int) -> str:
    return str(of[path, service, kind].get("parentSpanId", ""))


def ident(of: Found, path: str, service: str, kind: int) -> str:
    return str(of[path, service, kind]["spanId"])


@pytest.mark.parametrize(("where", "sdk"), [("c", "w3c"), ("b", "w3c"), ("c", "b3"), ("c", "sw8")])
def test_an_sdk_on_another_host_names_the_trace(
    cluster: Cluster, tmp_path: Path, python: str, where: str, sdk: str
) -> None:
    """From the very first request on."""
    got, collector = drive(cluster, tmp_path, python, {where: sdk}, {})
    assert len(got) == 8 * REQUESTS
    traces = set()
    for path in (f"/r{i}" for i in range(REQUESTS)):
        served, called = collector.of(path, SERVER), collector.of(path, CLIENT)
        assert (served.parent_id, called.parent_id) == ("", served.span_id), "the SDK did not do what is tested here"
        assert {s["traceId"] for (p, _, _), s in got.items() if p == path} == {called.trace_id}, path
        assert parent(got, path, "user", CLIENT) == ""
        above = "user"
        for service in "abcd":
            assert parent(got, path, service, SERVER) == ident(got, path, above, CLIENT)
            if service != "d":
                over = called.span_id if service == where else ident(got, path, service, SERVER)
                assert parent(got, path, service, CLIENT) == over
            above = service
        traces.add(called.trace_id)
    assert len(traces) == REQUESTS, "two requests are one trace"


@pytest.mark.parametrize("mode", ["child", "omit"])
def test_an_omitted_client_span_of_another_host(cluster: Cluster, tmp_path: Path, python: str, mode: str) -> None:
    """b's SDK has a span of the call to c, which is on the next host: where our CLIENT span is left out c's SERVER
    span stands below the SDK's, and no span of any host, points included, names a parent that is not there."""
    config = {"link": {"sdk_client_spans": mode}, "capture": {"payload_bytes": 2048, "nic": "on"}}
    got, collector = drive(cluster, tmp_path, python, {"b": "w3c"}, config)
    assert len(got) == (8 if mode == "child" else 7) * REQUESTS
    for path in (f"/r{i}" for i in range(REQUESTS)):
        called = collector.of(path, CLIENT)
        if mode == "omit":
            assert (path, "b", CLIENT) not in got
            assert parent(got, path, "c", SERVER) == called.span_id
        else:
            assert parent(got, path, "b", CLIENT) == called.span_id
            assert parent(got, path, "c", SERVER) == ident(got, path, "b", CLIENT)
        assert parent(got, path, "b", SERVER) == ident(got, path, "a", CLIENT)
        assert parent(got, path, "c", CLIENT) == ident(got, path, "c", SERVER)
        assert {s["traceId"] for (p, _, _), s in got.items() if p == path} == {called.trace_id}
    if mode == "omit":
        everything = [s for host in cluster.hosts for s in spans(tmp_path / host.name / "traces.jsonl")]
        known = {s["spanId"] for s in everything} | {s.span_id for s in collector.spans}
        for span in everything:
            assert span.get("parentSpanId", "") in known | {""}, f"a parent that nobody has: {span['name']}"

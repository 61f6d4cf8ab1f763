"""What programs trace themselves and what we see is one trace: real SDKs in a chain of thread-per-request services.

Each request has a path of its own, so that every span, the SDK's and ours, says whose it is. The SDKs report to a
collector in this process. OpenTelemetry's SDK with W3C and both B3 propagators; SkyWalking's own Python agent.
"""

from __future__ import annotations

import http.client
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from agent import Agent, count_logs, spans
from cgroup import own_cgroup
from collector import CLIENT, SERVER, Collector, sw8
from nginx import free_port
from running import running
from venvs import python_with

HERE = Path(__file__).parent
PACKAGES = ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2", "requests==2.34.2",
            "opentelemetry-instrumentation-requests==0.66b2", "opentelemetry-propagator-b3==1.45.1",
            "apache-skywalking==1.2.0")  # fmt: skip
REQUESTS, AT_ONCE = 60, 10
NAMES = [{"match": {"cmdline": f"*relay.py {name} *"}, "name": name} for name in "abc"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METHODS = {"w3c": "traceparent", "b3": "b3", "b3multi": "b3", "sw8": "sw8"}
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream next {{ server 127.0.0.1:{upstream}; keepalive 16; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""


@pytest.fixture(scope="session")
def python() -> str:
    """An interpreter that has the SDKs."""
    return python_with(*PACKAGES)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers or {})
    assert connection.getresponse().read() == b"end"
    connection.close()


def drive(port: int, headers: dict[str, str] | None = None) -> list[str]:
    """Sends REQUESTS, AT_ONCE at a time. Returns their paths."""
    paths = [f"/r{i}" for i in range(REQUESTS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda path: get(port, path, headers), paths))
    return paths


def chain(python: str, a: str, b: str, c: str, collector: int) -> tuple[list[list[str]], list[int]]:
    """Commands of a -> b -> c with these SDKs, and their ports."""
    ports = [free_port() for _ in range(3)]
    follow = [ports[1], ports[2], 0]
    relay = [python, str(HERE / "services/relay.py")]
    return [
        [*relay, name, str(port), str(to), sdk, str(collector)]
        for name, port, to, sdk in zip("abc", ports, follow, (a, b, c), strict=True)
    ], ports


Ours = dict[tuple[str, str, int], dict[str, Any]]


def ours(agent: Agent, paths: list[str]) -> Ours:
    """(path, service, kind) -> span; each is there once. The caller's service is called "user"."""
    out: Ours = {}
    for span in spans(agent.traces_file):
        path = span["attributes"].get("url.path")
        if path in paths:
            service = span["service"] if span["service"] in ("a", "b", "c", "nginx") else "user"
            key = (path, service, int(span["kind"]))
            assert key not in out, f"two spans of one request at one place: {key}"
            out[key] = span
    return out


def parent(of: Ours, path: str, service: str, kind: int) -> str:
    return str(of[path, service, kind].get("parentSpanId", ""))


def ident(of: Ours, path: str, service: str, kind: int) -> str:
    return str(of[path, service, kind]["spanId"])


@pytest.mark.parametrize("sdk", ["w3c", "b3", "b3multi", "sw8"])
def test_an_sdk_in_the_middle(tmp_path: Path, python: str, sdk: str) -> None:
    """Nobody gives b a context, and it begins a trace: that one is the trace of all spans, above it and below."""
    settings = {"service": {"rules": NAMES}, "capture": {"payload_bytes": 2048}}
    with own_cgroup("joins") as cgroup, Collector() as collector:
        commands, ports = chain(python, "none", sdk, "none", collector.port)
        with Agent(tmp_path, settings, "--cgroup", cgroup) as agent, running(*commands, ports=ports):
            paths = drive(ports[0])
            reported(collector, 2 * len(paths))
            agent.settled()
            agent.stop()
    got = ours(agent, paths)
    assert len(got) == 6 * len(paths)
    traces = set()
    for path in paths:
        served, called = collector.of(path, SERVER), collector.of(path, CLIENT)
        assert (served.parent_id, called.parent_id) == ("", served.span_id), "the SDK did not do what is tested here"
        assert {s["traceId"] for (p, _, _), s in got.items() if p == path} == {called.trace_id}
        assert parent(got, path, "user", CLIENT) == ""
        assert parent(got, path, "a", SERVER) == ident(got, path, "user", CLIENT)
        assert parent(got, path, "a", CLIENT) == ident(got, path, "a", SERVER)
        assert parent(got, path, "b", SERVER) == ident(got, path, "a", CLIENT)
        assert parent(got, path, "b", CLIENT) == called.span_id
        (link,) = got[path, "b", CLIENT]["links"]
        assert (link["traceId"], link["spanId"]) == (called.trace_id, ident(got, path, "b", SERVER))
        assert got[path, "b", CLIENT]["attributes"]["zerospan.link.method"] == METHODS[sdk]
        assert parent(got, path, "c", SERVER) == ident(got, path, "b", CLIENT)
        traces.add(called.trace_id)
    assert len(traces) == len(paths), "two requests are one trace"


def reported(collector: Collector, n: int) -> None:
    """Waits for so many spans of the SDKs."""
    end = time.monotonic() + 30
    while len(collector.spans) < n:
        assert time.monotonic() < end, f"{len(collector.spans)} of {n} spans came from the SDKs"
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["child", "omit"])
@pytest.mark.parametrize("sdk", ["w3c", "b3", "sw8"])
def test_an_sdk_above_us(tmp_path: Path, python: str, sdk: str, mode: str) -> None:
    """a has an SDK, b and c have none: our CLIENT span of a stands below the SDK's, or is left out and b's SERVER span
    stands there; metrics count it all the same."""
    settings = {"service": {"rules": NAMES}, "link": {"sdk_client_spans": mode}, "capture": {"payload_bytes": 2048}}
    with own_cgroup("joins") as cgroup, Collector() as collector:
        commands, ports = chain(python, sdk, "none", "none", collector.port)
        with Agent(tmp_path, settings, "--cgroup", cgroup) as agent, running(*commands, ports=ports):
            paths = drive(ports[0])
            reported(collector, 2 * len(paths))
            agent.settled()
            text = agent.metrics()
            agent.stop()
    got = ours(agent, paths)
    assert len(got) == (6 if mode == "child" else 5) * len(paths)
    for path in paths:
        called = collector.of(path, CLIENT)
        assert {s["traceId"] for (p, _, _), s in got.items() if p == path} == {called.trace_id}
        if mode == "child":
            assert parent(got, path, "a", CLIENT) == called.span_id
            assert parent(got, path, "b", SERVER) == ident(got, path, "a", CLIENT)
        else:
            assert parent(got, path, "b", SERVER) == called.span_id
        assert parent(got, path, "b", CLIENT) == ident(got, path, "b", SERVER)
        assert parent(got, path, "c", SERVER) == ident(got, path, "b", CLIENT)
    assert agent.ledger["dropped"].get("sdk_span", 0) == (len(paths) if mode == "omit" else 0)
    assert count(text, "http_client_request_duration_seconds_count", job="a", http_request_method="GET") == len(paths)
    assert count(text, "traces_service_graph_request_total", client="a", server="b") == len(paths)


def count(text: str, family: str, **labels: str) -> int:
    """Sum of the series with these labels. (The SDKs' own reports are POSTs.)"""
    series = (line.rsplit(" ", 1) for line in re.findall(rf"^{family}\{{.*\}} \d+", text, re.M))
    return sum(int(n) for body, n in series if all(f'{k}="{v}"' in body for k, v in labels.items()))


@pytest.mark.parametrize("mode", ["child", "omit"])
def test_a_proxy_passes_the_context_on(tmp_path: Path, python: str, mode: str) -> None:
    """a (SDK) -> nginx -> c: nginx's CLIENT span stands below its SERVER span, and not beside a's."""
    settings = {"service": {"rules": NAMES}, "link": {"sdk_client_spans": mode}}
    nginx_port = free_port()
    with own_cgroup("joins") as cgroup, Collector() as collector:
        commands, ports = chain(python, "w3c", "none", "none", collector.port)
        commands[0][4] = str(nginx_port)
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=nginx_port, upstream=ports[2]))
        tmp_path.chmod(0o755)
        programs = [commands[0], commands[2], ["nginx", "-c", str(tmp_path / "nginx.conf")]]
        with Agent(tmp_path, settings, "--cgroup", cgroup) as agent:
            with running(*programs, ports=[ports[0], ports[2], nginx_port]):
                paths = drive(ports[0])
                reported(collector, 2 * len(paths))
                agent.settled()
            agent.stop()
    got = ours(agent, paths)
    assert len(got) == (6 if mode == "child" else 5) * len(paths)
    for path in paths:
        called = collector.of(path, CLIENT)
        assert {s["traceId"] for (p, _, _), s in got.items() if p == path} == {called.trace_id}
        above = ident(got, path, "a", CLIENT) if mode == "child" else called.span_id
        assert parent(got, path, "nginx", SERVER) == above
        assert parent(got, path, "nginx", CLIENT) == ident(got, path, "nginx", SERVER)
        assert parent(got, path, "c", SERVER) == ident(got, path, "nginx", CLIENT)


@pytest.mark.parametrize("honour", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{TRACE}-{PARENT}-00"},
        {"b3": f"{TRACE}-{PARENT}-0"},
        {"b3": "0"},
        {"X-B3-TraceId": TRACE, "X-B3-SpanId": PARENT, "X-B3-Sampled": "0"},
        {"sw8": sw8(TRACE, 0)},
    ],
    ids=["traceparent", "b3", "b3 alone", "b3 multi", "sw8"],
)
def test_what_is_not_sampled_is_counted_and_not_exported(tmp_path: Path, headers: dict[str, str], honour: bool) -> None:
    """By name in the ledger; metrics and logs are the same with and without. No SDK: the header alone tells."""
    settings = {"service": {"rules": NAMES}, "link": {"honour_sampling": honour}}
    with own_cgroup("joins") as cgroup:
        commands, ports = chain(sys.executable, "none", "none", "none", 0)
        with Agent(tmp_path, settings, "--cgroup", cgroup) as agent, running(*commands, ports=ports):
            paths = drive(ports[0], headers)
            get(ports[0], "/sampled", {"traceparent": f"00-{TRACE}-{PARENT}-01"})
            agent.settled()
            text = agent.metrics()
            agent.stop()
    got = ours(agent, [*paths, "/sampled"])
    assert len(got) == (6 if honour else 6 * (len(paths) + 1))
    assert agent.ledger["dropped"].get("not_sampled", 0) == (6 * len(paths) if honour else 0)
    for service in "abc":
        assert count(text, "http_server_request_duration_seconds_count", job=service) == len(paths) + 1
    assert count_logs(agent.logs_file) == 3 * (len(paths) + 1)

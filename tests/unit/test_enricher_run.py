"""A whole enricher: as a process with its command line, its pages, and a node's enricher behind a cluster's."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

sys.path.insert(0, str(Path(__file__).parent))
from enricher_kit import SECOND, T0, Follower, free_port, put_pod, serving, tcp, until

from zerospan.enricher import keys, run
from zerospan.enricher.config import Config, load
from zerospan.enricher.config.model import Sources
from zerospan.enricher.lookup import candidates, container_of
from zerospan.enricher.metrics import target
from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.store import TagStore

UID = "3ff9c1d2-0b0e-4c55-9d2e-5f3e1c2a7b10"
PYTHONPATH = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
COMMAND = [sys.executable, "-m", "zerospan.exporter.cli", "enricher"]


def config(tmp_path: Path, **more: Any) -> Config:
    """Of an enricher that knows what the tests put into its store, nothing of this host."""
    off = {"os": ("enabled", False), "cloud": ("provider", "none")}
    here = {f"sources.{name}.{key}": value for name, (key, value) in off.items() if name in Sources.__struct_fields__}
    return load(None, {}, {"listen.unix": str(tmp_path / "s"), "node": "n1", **here, **more})


@contextlib.contextmanager
def running(made: run.Enricher) -> Iterator[run.Enricher]:
    made.start()
    try:
        yield made
    finally:
        made.stop()


def ask(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *args], env=PYTHONPATH, capture_output=True, text=True, timeout=60)


def test_lookup_prints_tags_and_says_what_is_unknown(tmp_path: Path) -> None:
    made = run.build(config(tmp_path))
    put_pod(made.store, "n1", "cart", "10.0.0.7")
    put_pod(made.store, "n1", "gone", "10.0.0.8")
    made.store.end(keys.address("10.0.0.8"), layer=Layer.KUBERNETES)
    me = made.store.make({"service.name": "tests", "process.command": "a\x1b[31mb"})
    made.store.put(keys.process("n1", os.getpid()), me, layer=Layer.OS, since_ns=T0)
    at = ("--unix", str(tmp_path / "s"), "--node", "n1")
    with running(made):
        found = ask("lookup", "--json", *at, "10.0.0.7")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["k8s.pod.name"] == "cart"
        table = ask("lookup", *at, "10.0.0.7:8080")
        assert "address 10.0.0.7, since 2023-11-14T22:13:20Z" in table.stdout
        assert "  k8s.cluster.name  test" in table.stdout.splitlines()
        process = ask("lookup", *at, str(os.getpid()))
        assert "tests" in process.stdout and "\x1b" not in process.stdout
        gone = ask("lookup", *at, "10.0.0.8")
        assert gone.returncode == 1 and "it was gone" in gone.stderr and not gone.stdout
        assert ask("lookup", *at, "10.9.9.9").returncode == 1
        assert ask("lookup", *at, "").returncode == 2
    away = ask("lookup", *at, "10.0.0.7")
    assert away.returncode == 1 and "no enricher runs here" in away.stderr


def test_run_says_ready_and_stops_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "s"
    process = subprocess.Popen(
        [*COMMAND, "run", "--unix", str(path), "--listen-http", f"127.0.0.1:{port}", "--scope", "cluster"],
        env=PYTHONPATH, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        while "ready" not in line:
            assert line, "it ended"
            line = process.stderr.readline()
        assert page(port, "/readyz") == (200, "ok\n")
        assert page(port, "/healthz") == (200, "ok\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert not path.exists()
    finally:
        process.kill()


def test_systemd_does_not_wait_for_a_source_that_is_away(tmp_path: Path) -> None:
    """READY=1 as soon as agents are served; `ready` on standard error only once all is in sync."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        process = subprocess.Popen(
            [*COMMAND, "run", "--unix", str(tmp_path / "s"), "--node", "n1", "--upstream", f"127.0.0.1:{free_port()}"],
            env={**PYTHONPATH, "NOTIFY_SOCKET": str(tmp_path / "notify")}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            ready, _, status = notify.recv(1000).partition(b"\n")
            assert ready == b"READY=1" and status.startswith(b"STATUS=waiting for ") and b"upstream" in status
            assert ask("lookup", "--json", "--unix", str(tmp_path / "s"), "--node", "n1", "n1").returncode == 0
            process.send_signal(signal.SIGTERM)
            assert notify.recv(1000) == b"STOPPING=1"
            _, said = process.communicate(timeout=20)
            assert process.returncode == 0 and "zerospan: ready" not in said
        finally:
            process.kill()


def test_config_command_and_help(tmp_path: Path) -> None:
    assert json.loads(ask("config", "--schema").stdout)["title"] == "Zerospan enricher configuration"
    assert "scope: cluster" in ask("config", "--scope", "cluster").stdout
    wrong = ask("config", "--listen-grpc", "0.0.0.0:1")
    assert wrong.returncode == 2 and "beyond loopback" in wrong.stderr
    for command in ("run", "lookup", "config"):
        assert "examples:" in ask(command, "--help").stdout


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['grpc'] = None\n")
    env = {**PYTHONPATH, "PYTHONPATH": f"{tmp_path}:{PYTHONPATH['PYTHONPATH']}"}
    said = subprocess.run([*COMMAND, "run"], env=env, capture_output=True, text=True, timeout=60)
    assert said.returncode == 1 and "pip install 'zerospan[enricher]'" in said.stderr and "Traceback" not in said.stderr


def page(port: int, path: str, accept: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Accept": accept} if accept else {})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def put_instance(store: TagStore, node: str, n: int) -> None:
    tags = store.make(
        {
            "service.name": "cart",
            "service.namespace": "shop",
            "service.instance.id": f"i{n}",
            "k8s.pod.label.a-b": 'x"y\\z',
        }
    )
    store.put(keys.container(f"{n:064x}"), tags, layer=Layer.KUBERNETES, since_ns=T0, node=node)


def test_pages(tmp_path: Path) -> None:
    made = run.build(config(tmp_path, **{"listen.http": "127.0.0.1:0", "limits.target_info": 3}))
    put_pod(made.store, "n1", "cart", "10.0.0.7")
    for n in range(5):
        put_instance(made.store, "n1", n)
    put_instance(made.store, "n2", 9)  # not of this scope
    with running(made):
        assert made.http is not None
        port = made.http.port
        status, body = page(port, "/lookup?key=10.0.0.7")
        assert status == 200 and json.loads(body)["k8s.pod.name"] == "cart"
        assert page(port, "/lookup?key=10.0.0.9")[0] == 404
        assert page(port, "/lookup?key=")[0] == page(port, "/lookup")[0] == page(port, "/lookup?key=1&key=2")[0] == 400
        until(lambda: page(port, "/readyz")[0] == 200)
        with Follower(f"unix:{tmp_path}/s", "n1") as f:
            until(lambda: f.client.stats().in_sync)
            for accept, parse in (("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)):
                families = {m.name: m for m in parse(page(port, "/metrics", accept)[1])}
                targets = families.get("target_info") or families["target"]
                assert len(targets.samples) == 3
                for sample in targets.samples:
                    assert sample.name == "target_info" and sample.labels["job"] == "shop/cart"
                    assert sample.labels["k8s_pod_label_a_b"] == 'x"y\\z' and sample.value == 1
                    assert sample.labels["instance"] in {f"i{n}" for n in range(5)}
                assert families["zerospan_enricher_targets_over_limit"].samples[0].value == 2
                assert families["zerospan_enricher_subscribers"].samples[0].value == 1
                by_kind = {s.labels["kind"]: s.value for s in families["zerospan_enricher_keys"].samples}
                assert by_kind["container"] == 7 and by_kind["address"] == 1
                assert families["zerospan_enricher_sent_bytes"].samples[0].value > 0
        made.store.end(keys.container(f"{0:064x}"), layer=Layer.KUBERNETES)
        text = page(port, "/metrics")[1]
        assert 'instance="i0"' not in text and "zerospan_enricher_targets_over_limit 1.0" in text


def test_what_is_no_service_instance_has_no_target_info() -> None:
    store = TagStore()
    assert target(store.make({"service.name": "x"})) == (b"", b"")


class Late:
    """A source that is in sync when it is told to be."""

    name = "late"
    synced = False

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def stats(self) -> SourceStats:
        return SourceStats(in_sync=self.synced, entities={"pod": 3}, lag_s=1.5, last_error="refused")


def test_ready_waits_for_the_sources(tmp_path: Path) -> None:
    made = run.build(config(tmp_path, **{"listen.http": "127.0.0.1:0"}))
    late = Late()
    made.sources["late"] = late
    with running(made), Follower(f"unix:{tmp_path}/s", "n1") as f:
        assert made.http is not None
        until(lambda: f.client.stats().connected)
        assert not f.client.stats().in_sync
        assert page(made.http.port, "/readyz") == (503, "not ready\n")
        assert "late (refused)" in made.waiting_for()
        assert 'zerospan_enricher_entities{kind="pod",source="late"} 3.0' in page(made.http.port, "/metrics")[1]
        late.synced = True
        until(lambda: f.client.stats().in_sync and page(made.http.port, "/readyz")[0] == 200)


def test_a_part_that_cannot_start_stops_the_others(tmp_path: Path) -> None:
    with serving(TagStore()) as taken, pytest.raises(OSError, match=r"listen\.grpc"):
        run.build(config(tmp_path, **{"listen.grpc": tcp(taken)})).start()
    with serving(TagStore(), [f"unix:{tmp_path}/s"]), pytest.raises(OSError, match=r"listen\.unix"):
        run.build(config(tmp_path)).start()


def test_a_nodes_enricher_follows_a_clusters(tmp_path: Path) -> None:
    """Agent -> node's enricher -> cluster's enricher: own keys, asked-for ones, changes, an outage."""
    cluster = TagStore()
    mine = put_pod(cluster, "n1", "cart", "10.0.0.7")
    far = put_pod(cluster, "n2", "pay", "10.0.0.8")
    other = put_pod(cluster, "n2", "not-asked", "10.0.0.9")
    port = free_port()
    node = run.build(config(tmp_path, **{"upstream.address": f"127.0.0.1:{port}"}))
    assert node.upstream is not None
    node.upstream._client._backoff_s = (0.05, 0.2)
    with running(node), Follower(f"unix:{tmp_path}/s", "n1") as agent:
        agent.want([far[0]])
        until(lambda: agent.mirror.bindings.get(far[0]) == [])
        assert not node.in_sync()
        with serving(cluster, [f"127.0.0.1:{port}"]):
            until(lambda: agent.find(mine[2]) and agent.find(far[0]))
            until(node.in_sync)
            until(lambda: agent.client.stats().in_sync)
            assert (agent.find(far[0]) or {})["service.name"] == "pay"
            assert node.store.find(other[0]) is None  # nobody asked
            put_pod(cluster, "n2", "new", "10.0.0.8", since_ns=T0 + 60 * SECOND)
            until(lambda: (agent.find(far[0]) or {}).get("service.name") == "new")
            assert (agent.mirror.find(far[0], T0 + SECOND) or {})["service.name"] == "pay"
        until(lambda: not node.upstream or not node.upstream._client.stats().connected)
        assert agent.find(far[0]) and agent.find(mine[0])  # last known
        other_life = TagStore(clock=lambda: time.time_ns() + 1)
        again = put_pod(other_life, "n2", "again", "10.0.0.8", since_ns=T0 + 90 * SECOND)
        with serving(other_life, [f"127.0.0.1:{port}"]) as upstream:
            until(lambda: (agent.find(again[0]) or {}).get("service.name") == "again")
            until(lambda: agent.find(mine[0]) is None)  # no more there: it has ended
            agent.drop([far[0]])
            until(lambda: upstream.stats().wanted == 1)  # the node's own
            until(lambda: node.store.find(far[0]) is None)


def test_what_is_asked_for_again_is_told_again(tmp_path: Path) -> None:
    """By an agent that was restarted: upstream tells the same as before, which had ended here with the agent."""
    cluster = TagStore()
    far = put_pod(cluster, "n2", "pay", "10.0.0.8")
    port = free_port()
    node = run.build(config(tmp_path, **{"upstream.address": f"127.0.0.1:{port}"}))
    assert node.upstream is not None
    node.upstream._client._backoff_s = (0.05, 0.2)
    with serving(cluster, [f"127.0.0.1:{port}"]) as upstream, running(node):
        for _ in range(3):
            with Follower(f"unix:{tmp_path}/s", "n1") as agent:
                agent.want([far[0]])
                until(lambda agent=agent: agent.find(far[0]))
                assert far[0] not in node.store.of_node("n1")
            until(lambda: upstream.stats().wanted == 1 and node.store.find(far[0]) is None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.7", [keys.address("10.0.0.7")]),
        ("fe80::1%eth0", [keys.address("fe80::1")]),
        ("10.0.0.7:53/udp", [keys.endpoint("10.0.0.7", 53, keys.UDP), keys.address("10.0.0.7")]),
        ("[::1]:80", [keys.endpoint("::1", 80), keys.address("::1")]),
        ("4711", [keys.process("n", 4711)]),
        (UID, [keys.pod(UID)]),
        ("containerd://" + "ab" * 32, [keys.container("ab" * 32)]),
        ("worker-1", [keys.node("worker-1"), keys.container("worker-1"), keys.pod("worker-1")]),
    ],
)
def test_what_people_type(text: str, expected: list[bytes]) -> None:
    assert candidates(text, "n") == expected


def test_a_process_of_a_container_is_found_by_the_container(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    pod, container = "1" * 64, "a" * 64
    (tmp_path / "7" / "cgroup").write_text(f"0::/kubepods.slice/{pod}/cri-containerd-{container}.scope\n")
    assert container_of(7, tmp_path) == container and container_of(8, tmp_path) == ""
    assert candidates("7", "n", tmp_path) == [keys.process("n", 7), keys.container(container)]

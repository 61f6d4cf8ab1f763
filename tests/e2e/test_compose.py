"""deploy/compose as it stands: valid by the Compose Specification's own loader, its files by the programs that read
them, and all of it run: the real Tempo, Loki, Prometheus and Collector, the agent, the enricher, with these very files.

No container runtime runs here: tests/kit/composed.py makes roots, volumes and rights of the file. In a network
namespace of the test, so that the ports are the file's. Grafana is not to be had here: the URLs of its data sources are
asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent import COMMAND
from backends.program import Program, ProgramError
from backends.query import Queries, request
from backends.stack import BIN
from composed import argv

from zerospan.exporter.cli import machine
from zerospan.exporter.source import netns

HERE = Path(__file__).resolve().parents[2] / "deploy/compose"
NETNS = f"agent-compose-{os.getpid()}"
BACKENDS = {"tempo": "tempo", "loki": "loki", "prometheus": "prometheus", "collector": "otelcol"}  # service -> program
OURS = ("enricher", "agent")
IMAGE_USER = 10001  # of Tempo's and Loki's images; any but root
READY = {
    "tempo": "http://127.0.0.1:3200/ready", "loki": "http://127.0.0.1:3100/ready",
    "prometheus": "http://127.0.0.1:9090/-/ready", "collector": "http://127.0.0.1:8888/metrics",
    "enricher": "http://127.0.0.1:9465/readyz", "agent": "http://127.0.0.1:9464/metrics",
}  # fmt: skip


def load(path: Path) -> subprocess.CompletedProcess[str]:
    if not os.access(BIN / "compose", os.X_OK):
        pytest.fail(f"not in {BIN}: compose; bring it with: make e2e-backends", pytrace=False)
    argv = [str(BIN / "compose"), "-format", "json", path.name]
    return subprocess.run(argv, cwd=path.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    done = load(HERE / "compose.yaml")
    assert done.returncode == 0 and not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_loader_takes_it_and_would_refuse_a_mistake(model: dict[str, Any], tmp_path: Path) -> None:
    assert model["services"].keys() == {*BACKENDS, *OURS, "grafana"}
    for service in model["services"].values():
        assert service.get("depends_on", {}).keys() <= model["services"].keys()
        named = {v["source"] for v in service.get("volumes", ()) if v["type"] == "volume"}
        assert named <= model["volumes"].keys()
    text = (HERE / "compose.yaml").read_text()
    for right, wrong in (("cap_add:", "capabilities_add:"), ("read_only: true", "read_only: [true]")):
        assert right in text
        (tmp_path / "compose.yaml").write_text(text.replace(right, wrong, 1))
        assert load(tmp_path / "compose.yaml").returncode != 0, wrong


def test_rights_and_what_is_reachable(model: dict[str, Any]) -> None:
    services = model["services"]
    short = lambda names: {name.removeprefix("CAP_") for name in names}  # noqa: E731
    assert set(services["agent"]["cap_add"]) == short((*machine.NEEDED, *machine.WANTED))
    assert set(services["enricher"]["cap_add"]) == {*short(machine.WANTED), "NET_ADMIN"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and "privileged" not in service, name
        assert name in OURS or "cap_add" not in service, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "ports" not in service, "host network, loopback only"
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind":
                assert volume["read_only"] and Path(volume["source"]).exists(), volume
    text = "".join(path.read_text() for path in HERE.rglob("*.yaml"))
    assert "0.0.0.0" not in text


@pytest.mark.parametrize(
    "command",
    [
        ["otelcol", "validate", "--config", "otelcol.yaml"],
        ["promtool", "check", "config", "prometheus.yaml"],
        ["tempo", "-config.verify", "-config.file=tempo.yaml"],
        ["loki", "-verify-config", "-config.file=loki.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_each_program_takes_its_file(command: list[str], tmp_path: Path) -> None:
    argv = [str(BIN / command[0]), *command[1:]]
    done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CONFIG ERROR" not in done.stderr and "WARN" not in done.stderr.upper(), done.stderr
    name = command[-1].rpartition("=")[2]
    (tmp_path / name).write_text((HERE / name).read_text() + "\nno_such_key: 1\n")
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, "it takes anything"


def test_ours_take_their_files(tmp_path: Path) -> None:
    enricher = (HERE / "enricher.yaml").read_text().replace("/etc/zerospan/static/", f"{HERE}/static/")
    (tmp_path / "enricher.yaml").write_text(enricher)
    for words, path in ((["config"], HERE / "zerospan.yaml"), (["enricher", "config"], tmp_path / "enricher.yaml")):
        done = subprocess.run([*COMMAND, *words, "--config", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class Place:
    """The services, each in its root, all in one network namespace."""

    def __init__(self, model: dict[str, Any], folder: Path) -> None:
        self.model, self.folder, self.programs = model, folder, dict[str, Program]()

    def start(self, name: str, program: str, env: dict[str, str] | None = None) -> Program:
        service = self.model["services"][name]
        words = [program, *service["command"]]
        if env:
            words = ["env", *(f"{key}={value}" for key, value in env.items()), *words]
        made = Program(
            name,
            argv(service, words, NETNS, self.folder / f"root-{name}", self.folder / "volumes", uid=IMAGE_USER),
            self.folder / f"{name}.log",
            lambda: self.answers(READY[name]),
        )
        self.programs[name] = made
        made.start()
        return made

    def answers(self, url: str) -> str | None:
        try:
            with inside():
                request(url)
        except OSError as e:
            return str(e)
        return None

    def wait(self, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while waiting := [one for one in self.programs.values() if not one.ready()]:
            if time.monotonic() > end:
                raise ProgramError("\n".join(one.describe("is not ready in time") for one in waiting))
            time.sleep(0.2)

    def stop(self) -> None:
        for one in reversed(list(self.programs.values())):
            one.stop()


@contextlib.contextmanager
def inside() -> Iterator[None]:
    fd = os.open(f"/run/netns/{NETNS}", os.O_RDONLY)
    try:
        with netns.inside(fd):
            yield
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def place(model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    static = {"entries": [{"nodes": [os.uname().nodename], "tags": {"rack": "r7"}}]}
    folder = tmp_path_factory.mktemp("compose")
    (folder / "static").mkdir()
    (folder / "static/static.yaml").write_text(yaml.safe_dump(static))
    for volume in model["services"]["enricher"]["volumes"]:  # the file that people write
        if volume["target"] == "/etc/zerospan/static":
            volume["source"] = str(folder / "static")
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    made = Place(model, folder)
    try:
        subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
        for name, program in BACKENDS.items():
            made.start(name, str(BIN / program))
        own = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "ZEROSPAN_FILTER_NETNS": "self"}
        for name in OURS:
            made.start(name, *COMMAND, env=own)
        made.wait()
        yield made
    finally:
        made.stop()
        subprocess.run(["ip", "netns", "del", NETNS], check=True)


def test_a_request_comes_out_at_each_back_end(place: Place) -> None:
    """One trace in Tempo with its tags, its log line in Loki with few labels, its series in Prometheus."""
    handler = "http.server.SimpleHTTPRequestHandler"
    program = f"import http.server, os; os.chdir('/var/empty'); http.server.test({handler}, port=8080)"
    os.makedirs("/var/empty", exist_ok=True)
    env = {
        "PATH": os.environ["PATH"],
        "OTEL_SERVICE_NAME": "boutique",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop",
    }
    server = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{NETNS}", "--", sys.executable, "-c", program],
        env=env,
        stderr=subprocess.DEVNULL,
    )
    ask = Queries("http://127.0.0.1:3200", "http://127.0.0.1:3100", "http://127.0.0.1:9090")
    try:
        end = time.monotonic() + 20
        while place.answers("http://127.0.0.1:8080/") and time.monotonic() < end:
            time.sleep(0.1)
        with inside():
            urllib.request.urlopen("http://127.0.0.1:8080/?buy", timeout=10).read()
            lines = ask.logql('{service_name="boutique"} | url_path="/"', at_least=1)
            line = lines[-1]
            assert line.labels.keys() == {"service_name", "service_namespace"}, line.labels
            assert line.metadata["rack"] == "r7" and line.metadata["host_name"] == os.uname().nodename
            found = ask.spans(line.metadata["trace_id"], at_least=2)
            (served,) = [s for s in found if s.kind == "SERVER"]
            assert served.service == "boutique" and served.resource["rack"] == "r7"
            assert served.resource["process.pid"] == server.pid
            by_rack = "* on (job, instance) group_left (rack) target_info"
            query = f'http_server_request_duration_seconds_count{{job="shop/boutique"}} {by_rack}'
            (series,) = ask.promql(query, wait_s=40)
            assert series["metric"]["rack"] == "r7" and float(series["value"][1]) >= 2
            (connected,) = ask.promql("zerospan_enricher_connected", wait_s=20)
            assert connected["value"][1] == "1"
            up = ask.promql("up", at_least=3, until=lambda all_: all(one["value"][1] == "1" for one in all_), wait_s=40)
            assert len(up) == 3
    finally:
        server.kill()
        server.wait()


def test_data_sources_lead_to_what_runs(place: Place) -> None:
    sources = {s["uid"]: s for s in yaml.safe_load((HERE / "grafana/datasources.yaml").read_text())["datasources"]}
    for uid, path in (("prometheus", "/-/ready"), ("tempo", "/ready"), ("loki", "/ready")):
        assert sources[uid]["type"] == uid and place.answers(sources[uid]["url"] + path) is None
    data = json.dumps([s["jsonData"] for s in sources.values()])
    assert set(sources) >= {
        w["datasourceUid"] for w in sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    }
    for uid in ("tempo", "loki", "prometheus"):
        assert f'"datasourceUid": "{uid}"' in data, f"nothing leads to {uid}"

"""One host without Kubernetes, as a user runs it: `zerospan enricher run` and `zerospan run`, each its own process.

    shopper (a script) -> 10.78.0.1:80, which the host translates -> storefront (nginx in a systemd unit)
      -> orders (python app.py in a container of compose) -> 192.168.77.2:5432, outside: the static file says whose

The host's programs stand in network namespaces and in control groups of the test. Truth: what was started, and where.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent import COMMAND, Agent, attributes, logs, spans
from cgroup import root as cgroup_root
from nginx import free_port
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "unit"))
from demo.hosts import Cluster, Endpoint, remove_cgroups
from enricher_kit import Authority

pytest.importorskip("grpc")

SERVER, CLIENT = 2, 3
CONTAINER = hashlib.sha256(f"agent-host-{os.getpid()}".encode()).hexdigest()
TOKEN = "s3cr3t-t0ken"
RANGE = "192.168.77.0/24"
APP = """
import http.client, http.server, sys, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        for next in sys.argv[2:]:
            host, _, port = next.partition(":")
            c = http.client.HTTPConnection(host, int(port), timeout=10)
            c.request("GET", self.path); c.getresponse().read(); c.close()
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
SHOPPER = """
import http.client, sys
for line in sys.stdin:
    host, port, path = line.split()
    c = http.client.HTTPConnection(host, int(port), timeout=10)
    c.request("GET", path); c.getresponse().read(); c.close()
    print(path, flush=True)
"""
NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 8080; location / {{ proxy_pass http://{upstream}; }} }} }}
"""


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


class World:
    """The host `box`, its programs, the files that name them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.folder, self.cgroup = folder, cgroup_root() / f"agent-host-{os.getpid()}"
        self.cgroups: list[Path] = []
        box = cluster.host("box")
        outside = cluster.host("outside", pods=False)
        self.box, self.outside = box, outside
        self.pods = {name: box.pod(name) for name in ("shopper", "storefront", "orders")}
        self.place("storefront", "system.slice/storefront.service")
        self.place("orders", f"docker/{CONTAINER}")
        self.place("shopper", "user.slice/session-3.scope")
        docker = folder / f"docker/containers/{CONTAINER}"
        docker.mkdir(parents=True)
        config = {
            "Image": "registry.example/shop/orders:1.7",
            "Labels": {"com.docker.compose.service": "orders", "com.docker.compose.project": "shop"},
        }
        (docker / "config.v2.json").write_text(json.dumps({"Name": "/shop-orders-1", "Config": config}))
        outside.run([sys.executable, self.script("rds", "app.py", APP), "5432"])
        outside.wait_port(5432)
        app = self.script("srv", "app.py", APP)
        self.orders = self.pods["orders"].run(["python3", app, "8000", f"{outside.address}:5432"])
        self.pods["orders"].wait_port(8000)
        conf = folder / "nginx.conf"
        conf.write_text(NGINX.format(folder=folder, upstream=f"{self.pods['orders'].address}:8000"))
        self.storefront = self.pods["storefront"].run(["nginx", "-c", str(conf)])
        self.pods["storefront"].wait_port(8080)
        self.service = cluster.service("storefront", 80, [self.pods["storefront"]], 8080)
        self.database = cluster.service("database", 5000, [Endpoint(outside.address, 5432)])
        self.shopper = subprocess.Popen(
            self.pods["shopper"].argv(["python3", self.script("home", "shopper.py", SHOPPER)]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def script(self, folder: str, name: str, text: str) -> str:
        (self.folder / folder).mkdir(exist_ok=True)
        path = self.folder / folder / name
        path.write_text(text)
        return str(path)

    def place(self, pod: str, path: str) -> None:
        made = self.cgroup
        for part in ("", *path.split("/")):
            made = made / part
            made.mkdir(exist_ok=True)
            if made not in self.cgroups:
                self.cgroups.insert(0, made)  # what is in another goes before it
        self.pods[pod].cgroup = made

    def ask(self, *paths: str, address: str = "", port: int = 80) -> None:
        """The shopper asks, one after the other."""
        assert self.shopper.stdin and self.shopper.stdout
        for path in paths:
            self.shopper.stdin.write(f"{address or self.service} {port} {path}\n")
            self.shopper.stdin.flush()
            assert self.shopper.stdout.readline().strip() == path

    def close(self) -> None:
        self.shopper.kill()
        self.shopper.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Cluster("agenthost", tunnel=None) as cluster:
        made = World(cluster, tmp_path_factory.mktemp("host"))
        try:
            yield made
        finally:
            made.close()
            cluster.close()
            remove_cgroups(made.cgroups)


class Enricher:
    """`zerospan enricher run --config FILE` of a user, with TLS and a token on TCP."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder, self.socket, self.static = folder, folder / "e.sock", folder / "static.yaml"
        self.ca = Authority(folder)
        cert, key = self.ca.issue("server")
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self.grpc, self.http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.config = folder / "enricher.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "node": "box",
                    "listen": {"unix": str(self.socket), "grpc": self.grpc, "http": self.http},
                    "security": {"cert": cert, "key": key, "token_files": [str(self.token)]},
                    "sources": {
                        "os": {
                            "host_name": "box",
                            "cgroups": [str(world.cgroup)],
                            "docker": [str(world.folder / "docker")],
                        },
                        "cloud": {"provider": "none"},
                        "static": {"file": str(self.static), "poll_s": 0.1},
                        "conntrack": {"enabled": True, "netns": [world.box.netns], "services": True},
                    },
                }
            )
        )
        self.write("orders-db", "r7")
        self.process: subprocess.Popen[bytes] | None = None
        self.stderr = folder / "enricher.stderr"

    def write(self, database: str, rack: str) -> None:
        """The static file, in one step."""
        entries = [
            {"name": database, "addresses": [RANGE], "tags": {"cloud.region": "eu-1", "db.owner": "team-orders"}},
            {"nodes": ["box"], "tags": {"rack": rack}},
        ]
        new = self.static.with_suffix(".new")
        new.write_text(yaml.safe_dump({"entries": entries}))
        new.replace(self.static)

    def start(self) -> None:
        with self.stderr.open("wb") as err:
            self.process = subprocess.Popen([*COMMAND, "enricher", "run", "--config", str(self.config)], stderr=err)
        until(lambda: self.process and self.process.poll() is not None or "ready" in self.stderr.read_text())
        assert self.process.poll() is None, self.stderr.read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert code == (0 if number == signal.SIGTERM else -number), self.stderr.read_text()

    def lookup(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, "enricher", "lookup", *args], capture_output=True, text=True, timeout=30)

    def tags(self, thing: str, *args: str) -> dict[str, str]:
        """By the Unix socket, unless `args` say otherwise."""
        done = self.lookup("--json", *(args or ("--config", str(self.config))), thing)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def page(self, path: str, token: str = TOKEN) -> tuple[int, str]:
        request = urllib.request.Request(f"https://{self.http}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cafile=self.ca.cert)
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()


@pytest.fixture
def enricher(world: World, tmp_path: Path) -> Iterator[Enricher]:
    made = Enricher(world, tmp_path)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()


@pytest.fixture
def agent(world: World, enricher: Enricher, tmp_path: Path) -> Iterator[Agent]:
    config = {"enricher": {"address": f"unix://{enricher.socket}", "node": "box"}, "selftest": False}
    options = [option for name in world.box.namespaces for option in ("--netns", name)]
    with Agent(tmp_path, config, *options) as made:
        until(lambda: made.status()["enricher"]["in_sync"])
        yield made


def by_path(agent: Agent, path: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(service, kind) -> its span, of one request."""
    found = [s for s in spans(agent.traces_file) if s["attributes"].get("url.path") == path]
    out = {(s["service"], s["kind"]): s for s in found}
    assert len(out) == len(found), "one span twice"
    return out


def resources(agent: Agent) -> dict[str, list[dict[str, Any]]]:
    """service.name -> its Resources, in their order."""
    out: dict[str, list[dict[str, Any]]] = {}
    for line in agent.traces_file.read_text().splitlines():
        for rs in json.loads(line)["resourceSpans"]:
            found = attributes(rs["resource"])
            out.setdefault(found["service.name"], []).append(found)
    return out


def samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (dict(s.labels), s.value) for f in text_string_to_metric_families(text) for s in f.samples if s.name == name
    ]


WAY = [("shopper", CLIENT), ("storefront", SERVER), ("storefront", CLIENT), ("orders", SERVER), ("orders", CLIENT)]
PEERS = ["storefront", "shopper", "orders", "storefront", "orders-db"]


def test_everything_is_named_and_tagged(world: World, enricher: Enricher, agent: Agent) -> None:
    world.ask("/buy", "/pay")
    agent.settled(1)
    metrics = agent.metrics()
    agent.stop()
    for path in ("/buy", "/pay"):
        found = by_path(agent, path)
        assert found.keys() == set(WAY), found.keys()
        assert len({s["traceId"] for s in found.values()}) == 1
        for at, of in zip(WAY[1:], WAY, strict=False):
            assert found[at]["parentSpanId"] == found[of]["spanId"], (at, of)
        for at, peer in zip(WAY, PEERS, strict=True):
            said = found[at]["attributes"]
            assert said["service.peer.name"] == peer, at
            assert said.get("peer.service") == (peer if at[1] == CLIENT else None), at
        # the service address that was asked for, and who is behind it
        assert found[WAY[0]]["attributes"]["network.peer.address"] == world.service
        assert found[WAY[0]]["attributes"]["zerospan.peer.address"] == world.pods["storefront"].address
        # an address outside: whose range it is
        database = found[WAY[-1]]["attributes"]
        assert database["network.peer.address"] == world.outside.address
        assert database["zerospan.peer.zerospan.range.name"] == "orders-db"
        assert database["zerospan.peer.cloud.region"] == "eu-1"
        assert "zerospan.peer.db.owner" not in database, "it is no tag of enricher.peer_tags"
    records = [r for r in logs(agent.logs_file) if r["attributes"]["url.path"] == "/buy"]
    assert {(r["service"], r["attributes"]["service.peer.name"]) for r in records} == {
        ("storefront", "shopper"), ("orders", "storefront"), ("orders", "orders-db"),
    }  # fmt: skip

    own = {name: all_[0] for name, all_ in resources(agent).items()}
    assert own.keys() == {"shopper", "storefront", "orders"}
    for service, said in own.items():
        assert said["host.name"] == "box" and said["rack"] == "r7" and said["os.type"] == "linux", service
    assert own["storefront"]["zerospan.systemd.unit"] == "storefront.service"
    assert own["storefront"]["process.executable.name"] == "nginx"
    assert own["storefront"]["process.pid"] == world.storefront.pid
    orders = own["orders"]
    assert (orders["service.namespace"], orders["container.id"]) == ("shop", CONTAINER)
    assert (orders["container.name"], orders["container.runtime"]) == ("shop-orders-1", "docker")
    assert orders["container.image.name"] == "registry.example/shop/orders"
    assert orders["process.runtime.name"] == "cpython" and orders["process.executable.name"].startswith("python3")
    assert own["shopper"]["process.executable.name"].startswith("python3")

    # metrics: job and instance; each target once, with the tags
    jobs = {"shopper", "storefront", "shop/orders"}
    for name in ("http_server_request_duration_seconds_count", "http_client_request_duration_seconds_count"):
        for labels, _ in samples(metrics, name):
            assert labels["job"] in jobs and labels["instance"]
            tags = [k for k in labels if k.startswith(("k8s_", "container_", "process_", "host_", "cloud_", "rack"))]
            assert not tags, tags
    targets = [labels for labels, value in samples(metrics, "target_info") if labels["job"] in jobs]
    assert sorted(t["job"] for t in targets) == sorted(jobs), "each once"
    (target,) = [t for t in targets if t["job"] == "shop/orders"]
    assert target["container_name"] == "shop-orders-1" and target["rack"] == "r7" and target["host_name"] == "box"
    others = [(d["job"], d["instance"]) for d, _ in samples(enricher.page("/metrics")[1], "target_info")]
    assert not set(others) & {(t["job"], t["instance"]) for t in targets}, "a join would find two"
    edges = {(d["client"], d["server"]) for d, n in samples(metrics, "traces_service_graph_request_total") if n}
    assert edges == {("shopper", "storefront"), ("storefront", "orders"), ("orders", "orders-db")}


def test_behind_an_address_that_is_translated_to_one_outside(world: World, enricher: Enricher, agent: Agent) -> None:
    """No agent sees the other end, and no file names the address: connection tracking tells who is behind it."""
    world.ask("/first", "/second", address=world.database, port=5000)
    until(lambda: enricher.tags(f"{world.database}:5000")["service.name"] == "orders-db")
    agent.settled(1)
    edges = {(d["client"], d["server"]) for d, n in samples(agent.metrics(), "traces_service_graph_request_total") if n}
    agent.stop()
    assert edges == {("shopper", "orders-db")}
    for path in ("/first", "/second"):
        ((_, span),) = by_path(agent, path).items()
        said = span["attributes"]
        assert said["network.peer.address"] == world.database
        assert said["service.peer.name"] == said["peer.service"] == "orders-db", path
        assert said["zerospan.peer.zerospan.range.name"] == "orders-db"


def test_the_enricher_is_killed_and_comes_back(world: World, enricher: Enricher, agent: Agent) -> None:
    world.ask("/before")
    agent.settled(1)
    # a changed file arrives while both run
    enricher.write("orders-db-2", "r8")
    until(lambda: enricher.tags(world.outside.address)["service.name"] == "orders-db-2")
    until(lambda: enricher.tags("box")["rack"] == "r8")
    until(lambda: [d for d, _ in samples(agent.metrics(), "target_info") if d.get("rack") == "r8"])
    world.ask("/changed")
    agent.settled(1)

    enricher.stop(signal.SIGKILL)
    until(lambda: not agent.status()["enricher"]["connected"])
    status = agent.status()["enricher"]
    assert status["last_error"] and not status["in_sync"]
    assert samples(agent.metrics(), "zerospan_enricher_connected") == [({}, 0)]
    enricher.write("orders-db-3", "r9")  # nobody reads it now
    world.ask("/away")
    agent.settled(1)
    world.ask("/strange", address=world.pods["storefront"].address, port=8080)
    agent.settled(1)

    enricher.start()
    until(lambda: agent.status()["enricher"]["in_sync"])
    assert agent.status()["enricher"]["epoch"] != status["epoch"]
    assert samples(agent.metrics(), "zerospan_enricher_connected") == [({}, 1)]
    until(lambda: [d for d, _ in samples(agent.metrics(), "target_info") if d.get("rack") == "r9"])
    world.ask("/back")
    agent.settled(1)
    targets = [d for d, _ in samples(agent.metrics(), "target_info") if d["job"] == "shop/orders"]
    agent.stop()
    assert [t["rack"] for t in targets] == ["r9"], "what it was is no target any more"
    for path, database in (
        ("/before", "orders-db"), ("/changed", "orders-db-2"), ("/away", "orders-db-2"), ("/strange", "orders-db-2"),
        ("/back", "orders-db-3"),
    ):  # fmt: skip
        found = by_path(agent, path)
        assert found.keys() == set(WAY), path
        peers = [found[at]["attributes"]["service.peer.name"] for at in WAY]
        assert peers == [*PEERS[:-1], database], path
    racks = [said["rack"] for said in resources(agent)["orders"]]
    assert list(dict.fromkeys(racks)) == ["r7", "r8", "r9"], racks


def test_lookup_tells_people_and_nobody_without_rights(world: World, enricher: Enricher) -> None:
    pid = world.orders.pid
    process = enricher.tags(str(pid))
    assert process["service.name"] == "orders" and process["container.name"] == "shop-orders-1"
    assert process["process.pid"] == str(pid) and process["rack"] == "r7"
    assert process["process.command_line"].endswith("app.py ? ?"), "arguments are masked"
    assert enricher.tags(str(world.storefront.pid))["service.name"] == "storefront"
    container = enricher.tags(CONTAINER)
    assert container["container.image.tags"] == "1.7" and container["rack"] == "r7"
    assert enricher.tags(world.pods["orders"].address) == container
    assert enricher.tags("192.168.77.200")["zerospan.range.name"] == "orders-db"
    assert enricher.tags("box")["rack"] == "r7"

    tcp = ("--node", "box", "--address", enricher.grpc, "--ca", enricher.ca.cert)
    right = (*tcp, "--token-file", str(enricher.token))
    assert enricher.tags(world.outside.address, *right) == enricher.tags(world.outside.address)
    assert enricher.tags(str(pid), *right) == process
    wrong = enricher.folder / "wrong"
    wrong.write_text("not-" + TOKEN)
    other = Authority(enricher.folder, "other")
    for args, why in (
        (tcp, "bearer token"),
        ((*tcp, "--token-file", str(wrong)), "bearer token"),
        (("--node", "box", "--address", enricher.grpc), "does not answer"),
        (("--node", "box", "--address", enricher.grpc, "--ca", other.cert), "CERTIFICATE_VERIFY_FAILED"),
    ):
        done = enricher.lookup("--json", *args, world.outside.address)
        assert done.returncode == 1 and not done.stdout and why in done.stderr, (args, done.stderr)
        assert TOKEN not in done.stderr and "orders-db" not in done.stderr and "Traceback" not in done.stderr
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    enricher.folder.chmod(0o755)
    done = subprocess.run(
        [*nobody, *COMMAND, "enricher", "lookup", "--unix", str(enricher.socket), world.outside.address],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1 and not done.stdout and "ermission denied" in done.stderr, done.stderr

    assert json.loads(enricher.page(f"/lookup?key={pid}")[1]) == process
    for token in ("", "not-" + TOKEN):
        for path in (f"/lookup?key={pid}", "/metrics"):
            code, body = enricher.page(path, token)
            assert code == 401 and "orders" not in body
        assert enricher.page("/readyz", token) == (200, "ok\n")
    world.ask("/nat")
    text = enricher.page("/metrics")[1]
    until(lambda: [n for d, n in samples(enricher.page("/metrics")[1], "zerospan_enricher_entities")
                   if d["source"] == "conntrack" and d["kind"] == "connection"][0] >= 1)  # fmt: skip
    assert [n for d, n in samples(text, "zerospan_enricher_refused_total")] or "refused" in text
    enricher.stop()
    assert not enricher.socket.exists()

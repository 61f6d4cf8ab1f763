"""Bookinfo, started and stopped: two nodes joined by VXLAN, a pod for each service with its Envoy, a client outside.

    node one: ingress, productpage, ratings     node two: details, reviews, dns     client: no node, only the underlay

The client reaches the ingress by a NodePort (DNAT and SNAT in node one). Programs look names up at dnsmasq in the pod
`dns` and get ClusterIPs. Assumes root and that `setup.sh` has run. Called by `__main__.py` and
tests/e2e/test_bookinfo.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.bookinfo import mesh
from demo.bookinfo.client import Request, request_line
from demo.hosts import Cluster, HostsError, Pod
from demo.process import CLEAN_ENV

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "demo/bookinfo/services"
CACHE = ROOT / ".cache/bookinfo"
JAR = CACHE / "reviews.jar"
NODE_PORT = 30080
START_S = 60.0
PLACES = {
    "one": ("ingress", "productpage", "ratings"),
    "two": ("dns", "details", "reviews"),
}
NAMES = ("productpage", "details", "reviews", "ratings")  # .bookinfo; what has a side-car
PYTHON = "/usr/bin/python3"
CURL = ("/usr/bin/curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--output", "/dev/null",
        "--write-out", "%{http_code}")  # fmt: skip


class Bookinfo:
    """`with Bookinfo() as bookinfo: bookinfo.curl(rid)`. `prefix`: of the namespaces' names. `forward`: programs hand
    X-Request-ID on. `answer_id`: the Envoys show X-Request-ID in answers. `tag`: programs put the request's id before
    the names that they look up, so that look-ups can be judged by it. `same_path`: all requests have one path, and
    their ids travel in User-Agent, so that nothing but evidence tells them apart."""

    def __init__(
        self,
        prefix: str = "bookinfo",
        *,
        forward: bool = False,
        answer_id: bool = True,
        tag: bool = False,
        same_path: bool = False,
    ) -> None:
        self.same_path = same_path
        self.tag = tag
        self.forward = forward
        self.answer_id = answer_id
        self.start_s = 0.0  # what start() took
        self.pods: dict[str, Pod] = {}
        self._cluster = Cluster(prefix)

    def __enter__(self) -> Self:
        begin = time.monotonic()
        require()
        self._cluster.__enter__()
        try:
            self._build()
            self._start()
            self._warm(begin + START_S)
        except BaseException:
            self._cluster.close()
            raise
        self.start_s = time.monotonic() - begin
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.close()

    @property
    def address(self) -> str:
        """Where the client finds the door: node one's address; the port is NODE_PORT."""
        return self._one.address

    @property
    def hosts(self) -> dict[str, list[str]]:
        """Network namespaces of each host, for an agent's `--netns`: "one" and "two" with their pods, and "client"."""
        return {host.name: host.namespaces for host in self._cluster.hosts}

    @property
    def namespaces(self) -> list[str]:
        """All of them."""
        return [name for names in self.hosts.values() for name in names]

    def curl(self, rid: str = "") -> Request:
        """One request by a real curl."""
        rid = rid or f"zs{secrets.token_hex(3)}n000000"
        begin = time.monotonic()
        path, agent = request_line(rid, self.same_path)
        url = f"http://{self.address}:{NODE_PORT}{path}"
        said = self._client.output(self._bare([*CURL, "--user-agent", agent, url]))
        return Request(rid, int(said), time.monotonic() - begin, 0.0)

    def load(self, rate: float, seconds: float, connections: int = 32) -> list[Request]:
        """`rate` requests a second for so many seconds, see client.py; all that were sent."""
        count = max(1, round(rate * seconds))
        out = self._cluster.folder / "load.jsonl"
        options = [f"--rate={rate}", f"--count={count}", f"--connections={connections}"]
        options += ["--same-path"] if self.same_path else []
        argv = [PYTHON, str(ROOT / "demo/bookinfo/client.py"), self.address, str(NODE_PORT), *options]
        with out.open("wb") as stdout:
            process = self._client.run(self._bare(argv), stdout=stdout)
            try:
                process.wait(seconds + 90)
            except subprocess.TimeoutExpired:
                raise HostsError(f"the client does not end\n{self.tails()}") from None
        done = [Request(**json.loads(line)) for line in out.read_text().splitlines()]
        if len(done) != count:
            raise HostsError(f"the client sent {len(done)} of {count} requests\n{self.tails('client')}")
        return done

    def settings(self) -> dict[str, Any]:
        """What an agent must be told: to watch network interfaces, and to call the Envoys by their pods (they are one
        program five times)."""
        rules = [
            {"match": {"cmdline": f"*envoy*--service-cluster {name} *"}, "name": f"{name}-envoy"}
            for name in ("ingress", *NAMES)
        ]
        return {"service": {"rules": rules}, "capture": {"nic": "on"}}

    def rss_mib(self) -> dict[str, float]:
        """Resident memory of each pod's programs, MiB; shared pages are counted in each."""
        found = {}
        for name, pod in self.pods.items():
            total = 0
            for process in pod.processes:
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{process.pid}/status").read_text()
                    total += int(next(x for x in text.splitlines() if x.startswith("VmRSS:")).split()[1])
            found[name] = total / 1024
        return found

    def dead(self) -> list[str]:
        """Programs that ended by themselves."""
        return [f"{name}: {process.args!r}" for name, pod in self.pods.items() for process in pod.processes
                if process.poll() is not None]  # fmt: skip

    def tails(self, *names: str, lines: int = 15) -> str:
        """The last lines of the pods' logs."""
        out = []
        for name in names or (*self.pods, "client"):
            path = self._cluster.folder / f"{name}.log"
            text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
            out += [f"  {name}:", *(f"    {line}" for line in text or ["(empty)"])]
        return "\n".join(out)

    def _build(self) -> None:
        hosts = {name: self._cluster.host(name) for name in PLACES}
        self._one = hosts["one"]
        self._client = self._cluster.host("client", pods=False)
        for host, names in PLACES.items():
            for name in names:
                self.pods[name] = hosts[host].pod(name)
        for name in NAMES:
            self.pods[name].configure(nameserver=self.pods["dns"].address)
            self._cluster.service(name, mesh.APP_PORT, [self.pods[name]])
        self._cluster.service("ingress", mesh.INGRESS_PORT, [self.pods["ingress"]], node_port=NODE_PORT)

    def _start(self) -> None:
        addresses = {name: self.pods[name].address for name in NAMES}
        self.pods["dns"].run(self._bare(self._dnsmasq()))
        for name in NAMES:
            self.pods[name].nft(mesh.redirection())
            self._envoy(name, mesh.sidecar(name, addresses, answer_id=self.answer_id))
        self._envoy("ingress", mesh.ingress(addresses["productpage"], answer_id=self.answer_id))
        for name, argv in self._programs().items():
            self.pods[name].run(self._bare(argv), cwd=SERVICES / name)
        for name in NAMES:
            for port in (mesh.APP_PORT, mesh.INBOUND, mesh.OUTBOUND):
                self.pods[name].wait_port(port, timeout_s=START_S)
        self.pods["ingress"].wait_port(mesh.INGRESS_PORT, timeout_s=START_S)

    def _envoy(self, name: str, config: dict[str, Any]) -> None:
        path = self._cluster.folder / f"envoy-{name}.json"
        path.write_text(json.dumps(config, indent=1))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path", str(path)]
        # a new group clears the signal at the parent's death that demo.hosts has asked for
        group = ["/usr/bin/setpriv", f"--regid={mesh.ENVOY_GROUP}", "--clear-groups", "--pdeathsig=KILL", "--"]
        self.pods[name].run(self._bare([*group, str(envoy()), "--service-cluster", name, *options]))

    def _programs(self) -> dict[str, list[str]]:
        java = ["/usr/bin/java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                # The JDK's server writes head and body apart; with Nagle that costs 40 ms on a kept connection.
                "-Dsun.net.httpserver.nodelay=true", "-Dsun.net.httpserver.idleInterval=600",
                "-Dhttp.keepAlive=false", "-Dsun.net.inetaddr.ttl=0", "-jar", str(JAR)]  # fmt: skip
        gunicorn = ["/usr/bin/gunicorn", "--bind", f"127.0.0.1:{mesh.APP_PORT}", "--worker-class", "gthread",
                    "--workers", "1", "--threads", "16", "--keep-alive", "600", "--worker-tmp-dir",
                    str(self._cluster.folder), "productpage:app"]  # fmt: skip
        return {
            "productpage": gunicorn,
            "details": ["/usr/bin/puma", "-C", "puma.rb"],
            "reviews": java,
            "ratings": ["/usr/bin/node", "ratings.js"],
        }

    def _dnsmasq(self) -> list[str]:
        addresses = {f"{name}.{mesh.DOMAIN}": self._cluster.services[name].address for name in NAMES}
        # --address answers for all names below it, too; but says of AAAA that there is no such name
        known = [
            f"--address=/{name}/{at}" if self.tag else f"--host-record={name},{at}" for name, at in addresses.items()
        ]
        alone = ["--conf-file=/dev/null", "--log-facility=-", "--pid-file=", "--no-resolv", "--no-hosts", "--no-poll"]
        # a change of user or group clears the signal at the parent's death, see _envoy
        stay = ["--keep-in-foreground", "--user=root", "--group=root"]
        return ["/usr/sbin/dnsmasq", *stay, *alone, f"--local=/{mesh.DOMAIN}/", *known]

    def _bare(self, argv: Sequence[str]) -> list[str]:
        """Nothing of the caller's environment reaches the programs."""
        env = {**CLEAN_ENV, "PYTHONDONTWRITEBYTECODE": "1", "BOOKINFO_FORWARD": str(int(self.forward)),
               "BOOKINFO_TAG": str(int(self.tag))}  # fmt: skip
        return ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in env.items()), *argv]

    def _warm(self, deadline: float) -> None:
        """Asks until the whole chain answers."""
        status: object = 0
        while status != 200:
            if dead := self.dead():
                raise HostsError(f"ended by themselves: {', '.join(dead)}\n{self.tails()}")
            if time.monotonic() > deadline:
                raise HostsError(f"Bookinfo does not answer with 200 in time (last: {status})\n{self.tails()}")
            try:
                status = self.curl().status
            except HostsError as error:
                status = error


def envoy() -> Path:
    """Envoy's executable in the demo's own environment."""
    found = sorted(CACHE.glob("venv/lib/python3*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else CACHE / "venv/bin/envoy"


def require() -> None:
    """HostsError that says what lacks."""
    if os.geteuid() != 0:
        raise HostsError("network namespaces and hooks need root: run it as root, or with sudo")
    needed = (envoy(), JAR, *map(Path, ("/usr/bin/node", "/usr/bin/java", "/usr/bin/puma", "/usr/bin/gunicorn",
              "/usr/sbin/dnsmasq", "/usr/bin/curl", "/usr/sbin/nft", "/usr/bin/setpriv")))  # fmt: skip
    if missing := [str(path) for path in needed if not os.access(path, os.R_OK)]:
        raise HostsError(f"not here: {', '.join(missing)}; bring them with: demo/bookinfo/setup.sh")

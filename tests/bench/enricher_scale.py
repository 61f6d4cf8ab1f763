"""What a large cluster costs the enricher: the list, the changes, and finding.

`.venv/bin/python tests/bench/enricher_scale.py [--runs N] [--pods N] [--rate N] [--seconds N] [--kubeconfig]
[--json FILE]`: a fake API server in a process of its own sends pods as large as real ones (8.6 KB, managedFields
and all) over loopback; it makes them before anybody asks, as a real one has them in memory, so that the two do not
take the caches from each other. The store and the source run in a fresh process each time. CPU is that process's own
(user and system, process_time), the least of all runs: whatever else the machine does makes it more, never less. Memory
is the highest resident set, imports included, the most of all runs. Not a test: figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
import kubernetes_objects as k8s
from machine import leave_on_sigterm

POD_BYTES = 8600
BEHIND = 20  # pods of a Deployment, behind its Service
MOST = ("start_mb", "peak_mb", "rss_mb", "peak_mb_after")  # told as the most of all runs
LEAST = ("list_cpu_s", "change_us", "change_core_percent", "find_us", "sweep_ms")
PAGE = 250  # the default of sources.kubernetes.page
GOAL = {"list_cpu_s": 2.0, "peak_mb": 120.0, "change_core_percent": 10.0}


def pod(i: int, nodes: int, generation: int = 0, phase: str = "Running") -> bytes:
    """Pod number i; another generation is another pod of that name's workload, at the same address."""
    app, hash = f"app-{i // BEHIND}", f"{i // BEHIND:08x}"[-8:] + "f7"
    name = f"{app}-{hash}-{i % BEHIND:04x}{generation:x}"
    obj = k8s.pod(
        name,
        f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}",
        f"node-{i % nodes}",
        namespace=f"team-{i // BEHIND % 200}",
        start=generation * 60,
        owners=[k8s.owner("ReplicaSet", f"{app}-{hash}", f"team-{i // BEHIND % 200}")],
        labels={"pod-template-hash": hash, "app": app, "team": f"team-{i // BEHIND % 200}"},
        image=f"registry.example/{app}:1.{i // BEHIND % 9}.0",
        phase=phase,
    )
    fields = {f"f:field-{k}": {".": {}, "f:name": {}, "f:value": {}} for k in range(40)}
    obj["metadata"]["managedFields"] = [{"manager": "kubelet", "operation": "Update", "fieldsV1": fields}]
    obj["spec"]["volumes"] = [{"name": f"v{k}", "configMap": {"name": f"c{k}", "defaultMode": 420}} for k in range(20)]
    obj["spec"]["containers"][0]["env"] = [{"name": f"VARIABLE_{k}", "value": f"value-{k}"} for k in range(20)]
    obj["status"]["conditions"] = [
        {"type": t, "status": "True", "lastProbeTime": None, "lastTransitionTime": k8s.at(generation * 60)}
        for t in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    data = json.dumps(obj, separators=(",", ":")).encode()
    pad = POD_BYTES - len(data)
    return data[:-1] + b',"pad":"' + b"x" * max(pad - 9, 0) + b'"}'


class Server:
    """Answers lists page by page, made as they are asked for, and one rate of pod events to whoever watches pods."""

    def __init__(self, pods: int, rate: int, seconds: float) -> None:
        self.pods, self.rate, self.seconds = pods, rate, seconds
        self.nodes = max(pods // 50, 1)
        self.apps = pods // BEHIND
        self.made = {
            (resource, start): self.items(resource, start, start + PAGE)
            for resource, count in (
                ("nodes", self.nodes), ("services", self.apps), ("endpointslices", self.apps),
                ("replicasets", self.apps), ("pods", pods),
            )
            for start in range(0, count, PAGE)
        }  # fmt: skip
        self.events = self.changes()
        self.go = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))

    def run(self) -> None:
        print(self.listener.getsockname()[1], flush=True)
        threading.Thread(target=self.commands, daemon=True).start()
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def commands(self) -> None:
        for _ in sys.stdin:
            self.go.set()

    def items(self, resource: str, start: int, end: int) -> tuple[list[bytes], int]:
        if resource == "pods":
            return [pod(i, self.nodes) for i in range(start, min(end, self.pods))], self.pods
        made: list[k8s.Object] = []
        count = {"nodes": self.nodes, "services": self.apps, "endpointslices": self.apps, "replicasets": self.apps}.get(
            resource, 0
        )
        for i in range(start, min(end, count)):
            team, app = f"team-{i % 200}", f"app-{i}"
            if resource == "nodes":
                made.append(k8s.node(f"node-{i}", f"172.{i >> 8 & 255}.{i & 255}.1"))
            elif resource == "services":
                made.append(k8s.service(app, f"10.200.{i >> 8 & 255}.{i & 255}", namespace=team))
            elif resource == "replicasets":
                hash = f"{i:08x}"[-8:] + "f7"
                made.append(k8s.replicaset(f"{app}-{hash}", k8s.owner("Deployment", app, team), hash, team))
            else:
                uids = [json.loads(pod(k, self.nodes))["metadata"]["uid"] for k in range(i * BEHIND, (i + 1) * BEHIND)]
                made.append(k8s.endpoints(app, *({"metadata": {"uid": u}, "status": {}} for u in uids), namespace=team))
        return [json.dumps(o).encode() for o in made], count

    def serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        while (line := file.readline()) and line.strip():
            while file.readline().strip():
                pass
            url = urlsplit(line.split()[1].decode())
            query = {k: v[0] for k, v in parse_qs(url.query).items()}
            resource = url.path.rpartition("/")[2]
            if "watch" in query:
                self.watch(connection, resource)
                return
            start = int(query.get("continue", "0"))
            end = start + int(query.get("limit", "500"))
            items, count = self.made.get((resource, start)) or self.items(resource, start, end)
            more = b'"continue":"%d",' % end if end < count else b""
            body = b'{"metadata":{%s"resourceVersion":"7"},"items":[%s]}' % (more, b",".join(items))
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(0, len(body), 1 << 16):
                part = body[i : i + (1 << 16)]
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            connection.sendall(b"0\r\n\r\n")

    def watch(self, connection: socket.socket, resource: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if resource != "pods":
            time.sleep(3600)
        self.go.wait()
        self.go.clear()
        began = time.monotonic()
        for n, data in enumerate(self.events):
            while (wait := began + n / self.rate - time.monotonic()) > 0:
                time.sleep(wait)
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        time.sleep(3600)

    def changes(self) -> list[bytes]:
        """Lines of a watch; a third: a pod is replaced (deleted, added); else a status that changes no tag."""
        rng = random.Random(1)
        lines: list[bytes] = []
        total = int(self.rate * self.seconds)
        while len(lines) < total:
            i = rng.randrange(self.pods)
            if rng.random() < 1 / 3:
                lines.append(b'{"type":"DELETED","object":%s}\n' % pod(i, self.nodes))
                lines.append(b'{"type":"ADDED","object":%s}\n' % pod(i, self.nodes, len(lines) + 1))
            else:
                lines.append(b'{"type":"MODIFIED","object":%s}\n' % pod(i, self.nodes))
        return lines[:total]


def memory_mb(field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def enricher(port: int, kubeconfig: bool) -> None:
    """The process that is measured: tells one JSON line after the list, and after the changes."""
    from zerospan.enricher.keys import address
    from zerospan.enricher.sources.kubernetes import Kubernetes, KubernetesSource
    from zerospan.enricher.sources.kubernetes.client import Access, access
    from zerospan.enricher.store import TagStore
    from zerospan.enricher.tuning import tune
    from zerospan.exporter.cli.daemon import frugal_malloc

    frugal_malloc()
    tune()
    before = memory_mb("VmRSS")
    store = TagStore()
    url = f"http://127.0.0.1:{port}"
    with tempfile.NamedTemporaryFile("w") as file:
        json.dump(config(url), file)
        file.flush()
        began, wall = time.process_time(), time.monotonic()
        found = access(file.name) if kubeconfig else Access(url)
    source = KubernetesSource(store, Kubernetes(enabled=True, page=PAGE), access=found)
    source.start()
    while not source.stats().in_sync:
        time.sleep(0.2)  # asking costs, too
    cpu = time.process_time() - began
    stats = source.stats()
    listed = {
        "list_cpu_s": cpu,
        "list_wall_s": time.monotonic() - wall,
        "start_mb": before,
        "peak_mb": memory_mb("VmHWM"),
        "rss_mb": memory_mb("VmRSS"),
        "entities": stats.entities,
        "store": store.counts(),
        "errors": stats.last_error,
    }
    print(json.dumps(listed), flush=True)
    total = int(sys.stdin.readline())
    began, wall = time.process_time(), time.monotonic()
    while source.stats().changes < total:
        time.sleep(0.1)
    cpu, wall = time.process_time() - began, time.monotonic() - wall
    asked = [address(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}") for i in range(0, 50_000, 7)]
    began = time.process_time()
    for _ in range(10):
        for key in asked:
            store.find(key, 1)
    find_us = (time.process_time() - began) / (10 * len(asked)) * 1e6
    began = time.process_time()
    store.sweep()
    followed = {
        "change_us": cpu / total * 1e6,
        "change_core_percent": cpu / wall * 100,
        "changes_per_s": total / wall,
        "find_us": find_us,
        "sweep_ms": (time.process_time() - began) * 1e3,
        "peak_mb_after": memory_mb("VmHWM"),
        "errors": source.stats().last_error,
    }
    source.stop()
    print(json.dumps(followed), flush=True)


def config(url: str) -> dict[str, object]:
    """A kubeconfig, as JSON is YAML, too."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
    }


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the least or the most of all runs; of others the last."""
    found = dict(runs[-1])
    for names, choose in ((LEAST, min), (MOST, max)):
        found |= {name: choose(run[name] for run in runs) for name in names if name in found}
    return found | {f"{name}_runs": [round(run[name], 2) for run in runs] for name in GOAL}


def main() -> None:
    leave_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pods", type=int, default=50_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kubeconfig", action="store_true", help="find the server by a kubeconfig")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return Server(args.pods, args.rate, args.seconds).run()
    if args.port:
        return enricher(args.port, args.kubeconfig)
    own = [sys.executable, __file__, "--pods", str(args.pods), "--rate", str(args.rate), "--seconds", str(args.seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([*own, "--serve"], **pipes)  # type: ignore[call-overload]
    runs = []
    try:
        port = server.stdout.readline().strip()
        for _ in range(args.runs):
            command = [*own, "--port", port, *(["--kubeconfig"] if args.kubeconfig else [])]
            client = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
            try:
                run = json.loads(client.stdout.readline())
                client.stdin.write(f"{int(args.rate * args.seconds)}\n")
                client.stdin.flush()
                server.stdin.write("go\n")
                server.stdin.flush()
                runs.append(run | json.loads(client.stdout.readline()))
            finally:
                client.kill()
                client.wait()
    finally:
        server.kill()
        server.wait()
    result = best(runs)
    for name, value in result.items():
        goal = f"  (goal: at most {GOAL[name]})" if name in GOAL else ""
        print(f"{name:22} {value if not isinstance(value, float) else round(value, 2)}{goal}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

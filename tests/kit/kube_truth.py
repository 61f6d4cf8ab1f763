"""What is true of the pods of a test cluster: by the API server's own word, and by the kernel's control groups.

    with Truth(cluster) as truth:
        truth.faults(span.resource, truth.pod("bookinfo", "ratings"))  # [] if all its tags are right

A watch by kubectl keeps every pod that ever was, also those that live for two seconds. The expected tags are written
out here from the objects, by OpenTelemetry's rules, and share no code with the enricher. Used by
tests/e2e/test_kubernetes_*.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kube_chart import CLUSTER_NAME
from kube_cluster import PROGRAMS, Cluster

Json = dict[str, Any]
CGROUP = re.compile(r"/pod([0-9a-f-]{36})/([0-9a-f]{64})")
WORKLOADS = ("deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob")


class Truth:
    """All pods of a cluster since the block began. Thread-safe for reading."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pods: dict[str, Json] = {}  # uid -> the last that the API server said
        self.seen_at: dict[str, float] = {}  # uid -> time.time() of the first word
        self._owners: dict[str, Json] = {}
        self._services: list[Json] = []
        self._nodes: dict[str, Json] = {}
        self._stopping = False
        self._first = threading.Event()
        self._watch: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="truth", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._first.wait(20), "kubectl get --watch tells of no pod"
        self.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping = True
        if self._watch is not None:
            self._watch.kill()
        self._thread.join(5)

    def refresh(self) -> None:
        """Asks for all objects anew; those that are gone stay known."""
        for item in self.cluster.get("pods", "-A")["items"]:
            self._put(item)
        for kind in ("replicasets", "jobs"):
            for item in self.cluster.get(kind, "-A")["items"]:
                self._owners[item["metadata"]["uid"]] = item
        self._services = self.cluster.get("services", "-A")["items"]
        self._nodes = {item["metadata"]["name"]: item for item in self.cluster.get("nodes")["items"]}

    # -- finding pods

    def all(self, namespace: str, app: str = "") -> list[Json]:
        """Pods of a namespace (with the label app), gone ones included, in the order in which they were made."""
        found = [
            pod
            for pod in list(self.pods.values())
            if pod["metadata"]["namespace"] == namespace
            and (not app or pod["metadata"].get("labels", {}).get("app") == app)
        ]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def pod(self, namespace: str, app: str, node: str = "") -> Json:
        """The one pod that runs now with this label (on that node)."""
        self.refresh()
        names = {pod["metadata"]["uid"] for pod in self.cluster.get("pods", "-n", namespace)["items"]}
        [found] = [
            pod
            for pod in self.all(namespace, app)
            if pod["metadata"]["uid"] in names
            and "deletionTimestamp" not in pod["metadata"]
            and (not node or pod["spec"]["nodeName"] == node)
        ]
        return found

    def of_container(self, container_id: str) -> tuple[Json, str] | None:
        """(pod, name of the container) by a container's id."""
        for pod in list(self.pods.values()):
            for status in _statuses(pod):
                if container_id and container_id in str(status):
                    return pod, str(status["name"])
        return None

    def of_process(self, pid: int) -> str:
        """Container id by the kernel's word, "" outside containers or for a process that has ended."""
        try:
            found = CGROUP.search(Path(f"/proc/{pid}/cgroup").read_text())
        except OSError:
            return ""
        return found[2] if found else ""

    # -- what must be said

    def expected(self, pod: Json, container: str = "") -> dict[str, str]:
        """Tags of a pod, and of one container of it, that must be on all that is said of it."""
        meta, spec, status = pod["metadata"], pod["spec"], pod["status"]
        labels = meta.get("labels", {})
        node = self._nodes[spec["nodeName"]]
        tags = {
            "k8s.cluster.name": CLUSTER_NAME,
            "k8s.namespace.name": meta["namespace"],
            "k8s.pod.name": meta["name"],
            "k8s.pod.uid": meta["uid"],
            "k8s.node.name": spec["nodeName"],
            "k8s.node.uid": node["metadata"]["uid"],
            "cloud.availability_zone": node["metadata"]["labels"]["topology.kubernetes.io/zone"],
            "cloud.region": node["metadata"]["labels"]["topology.kubernetes.io/region"],
            "service.namespace": meta["namespace"],
        }
        if status.get("podIP") and not spec.get("hostNetwork"):  # that would be the node's
            tags["k8s.pod.ip"] = status["podIP"]
        top = ""
        for kind, name in self._owned(meta):
            tags[f"k8s.{kind}.name"] = name
            top = name
        if top:
            tags["zerospan.k8s.workload.name"] = top
        name = labels.get("app.kubernetes.io/instance") or labels.get("app.kubernetes.io/name") or top or meta["name"]
        tags["service.name"] = name
        services = self.services_of(pod)
        if len(services) == 1 and "deletionTimestamp" not in meta and _ready(pod):
            tags["k8s.service.name"] = services[0]
        if container:
            tags["k8s.container.name"] = container
            image = next(one["image"] for one in _containers(spec) if one["name"] == container)
            tags["container.image.name"] = image.rpartition(":")[0]
            for one in _statuses(pod):
                if one["name"] == container and one.get("containerID"):
                    tags["container.id"] = one["containerID"].rpartition("/")[2]
        return tags

    def peer(self, pod: Json, container: str = "") -> dict[str, str]:
        """What must be said of a pod as the other end."""
        names = ["k8s.namespace.name", "k8s.pod.name", "k8s.node.name", "cloud.availability_zone", "cloud.region",
                 "zerospan.k8s.workload.name"]  # fmt: skip
        names += [f"k8s.{kind}.name" for kind in WORKLOADS if kind != "replicaset"]
        tags = self.expected(pod, container)
        found = {f"zerospan.peer.{name}": tags[name] for name in names if name in tags}
        return found | {"service.peer.name": tags["service.name"], "service.peer.namespace": tags["service.namespace"]}

    def services_of(self, pod: Json) -> list[str]:
        """Services whose selector takes the pod."""
        labels, found = pod["metadata"].get("labels", {}), []
        for one in self._services:
            selector = one["spec"].get("selector")
            same = one["metadata"]["namespace"] == pod["metadata"]["namespace"]
            if same and selector and selector.items() <= labels.items():
                found.append(str(one["metadata"]["name"]))
        return found

    def faults(self, tags: Mapping[str, Any], pod: Json, container: str = "", *, flat: bool = False) -> list[str]:
        """What is missing or wrong of a thing of this pod. flat: names as Prometheus and Loki have them."""
        return differences(tags, self.expected(pod, container), flat=flat)

    def peer_faults(self, tags: Mapping[str, Any], pod: Json) -> list[str]:
        """The same of the other end."""
        return differences(tags, self.peer(pod))

    def of_record(self, tags: Mapping[str, Any], *, flat: bool = False) -> tuple[list[str], str]:
        """Of a resource, a target_info or a log line: what is wrong of it, and its pod's name ("" if it is of none).

        Whose it is, the kernel says by its process where that still runs, else the container's id that it bears.
        """
        get = {name: tags.get(_flat(name) if flat else name, "") for name in ("container.id", "process.pid")}
        container = str(get["container.id"])
        real = self.of_process(int(get["process.pid"])) if get["process.pid"] else ""
        claims = [name for name in tags if name.startswith("k8s_pod" if flat else "k8s.pod")]
        if real and real != container:
            return [f"process {get['process.pid']} is of container {real[:12]}, not of {container[:12] or 'none'}"], ""
        found = self.of_container(container)
        if found is None:
            unknown = [f"container {container[:12]} is none of this cluster"] if container else []
            return unknown + [f"{name}={tags[name]} without a container" for name in claims], ""
        pod, name = found
        return self.faults(tags, pod, name, flat=flat), str(pod["metadata"]["name"])

    # -- inside

    def _owned(self, meta: Json) -> Iterator[tuple[str, str]]:
        while owner := next((one for one in meta.get("ownerReferences", ()) if one.get("controller")), None):
            yield owner["kind"].lower(), owner["name"]
            if owner["uid"] not in self._owners:
                return
            meta = self._owners[owner["uid"]]["metadata"]

    def _put(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        known = self.pods.get(uid)
        if known is None or int(known["metadata"]["resourceVersion"]) <= int(pod["metadata"]["resourceVersion"]):
            if known is not None and known["status"].get("podIP") and not pod["status"].get("podIP"):
                pod["status"]["podIP"] = known["status"]["podIP"]
            self.pods[uid] = pod
        self.seen_at.setdefault(uid, time.time())

    def _run(self) -> None:
        argv: list[str | Path] = [
            PROGRAMS / "kubectl",
            "--kubeconfig",
            self.cluster.kubeconfig,
            "get",
            "pods",
            "-A",
            "--watch",
            "-o",
            "json",
        ]
        while not self._stopping:  # ends with the API server
            self._watch = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert self._watch.stdout is not None
            text = ""
            for line in self._watch.stdout:
                text += line
                if line == "}\n":  # each object ends so, and nothing inside it begins a line with it
                    self._put(json.loads(text))
                    self._first.set()
                    text = ""
            self._watch.wait()
            time.sleep(0.2)


def differences(tags: Mapping[str, Any], expected: Mapping[str, str], *, flat: bool = False) -> list[str]:
    """One text for each expected tag that is missing or other."""
    found = []
    for name, value in expected.items():
        said = tags.get(_flat(name) if flat else name)
        if said != value:
            found.append(f"{name}: {said!r}, not {value!r}")
    return found


def _flat(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _containers(spec: Json) -> list[Json]:
    return [*spec["containers"], *spec.get("initContainers", ())]


def _statuses(pod: Json) -> list[Json]:
    status = pod["status"]
    return [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]


def _ready(pod: Json) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"

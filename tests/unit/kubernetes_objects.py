"""Kubernetes objects as the API writes them, for tests; times are seconds after START."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

START = 1_763_900_000  # Unix time
S = 1_000_000_000
Object = dict[str, Any]
PODS, NODES, SERVICES = "/api/v1/pods", "/api/v1/nodes", "/api/v1/services"
SLICES, INGRESSES = "/apis/discovery.k8s.io/v1/endpointslices", "/apis/networking.k8s.io/v1/ingresses"
NAMESPACES, REPLICASETS, JOBS = "/api/v1/namespaces", "/apis/apps/v1/replicasets", "/apis/batch/v1/jobs"
DEPLOYMENTS = "/apis/apps/v1/deployments"
ALL = (NAMESPACES, NODES, REPLICASETS, JOBS, INGRESSES, SERVICES, SLICES, PODS)


def at(seconds: float) -> str:
    return datetime.fromtimestamp(START + int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ns_at(seconds: float) -> int:
    return int((START + seconds) * S)


def uid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def container_id(name: str) -> str:
    return (uuid.uuid5(uuid.NAMESPACE_DNS, name).hex * 2)[:64]


def meta(name: str, namespace: str = "shop", seconds: float = 0, **more: Any) -> Object:
    found = {
        "name": name,
        "uid": uid_of(f"{namespace}/{name}"),
        "creationTimestamp": at(seconds),
        "resourceVersion": "1",
    }
    if namespace:
        found["namespace"] = namespace
    return found | more


def owner(kind: str, name: str, namespace: str = "shop") -> Object:
    return {
        "kind": kind,
        "name": name,
        "uid": uid_of(f"{namespace}/{kind}/{name}"),
        "controller": True,
        "apiVersion": "v1",
    }


def pod(
    name: str,
    ip: str = "",
    node: str = "n1",
    *,
    namespace: str = "shop",
    uid: str = "",
    start: float = 0,
    owners: list[Object] | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    containers: tuple[str, ...] = ("app",),
    image: str = "registry:5000/shop/cart:1.4.2",
    ended: float | None = None,
    phase: str = "Running",
    dying: float | None = None,
    host_network: bool = False,
    restarts: int = 0,
) -> Object:
    """ended: when all containers terminated. restarts: the container before the present one ended 1 s before it."""
    uid = uid or uid_of(f"{namespace}/{name}")
    statuses = []
    for c in containers:
        began = start + 1
        state: Object = {"running": {"startedAt": at(began + 10 * restarts)}}
        id = "containerd://" + container_id(f"{uid}/{c}/{restarts}")
        last: Object = {}
        if restarts:
            before = "containerd://" + container_id(f"{uid}/{c}/{restarts - 1}")
            stamps = {"startedAt": at(began + 10 * (restarts - 1)), "finishedAt": at(began + 10 * restarts - 1)}
            last = {"terminated": {"containerID": before, **stamps}}
        if ended is not None:
            stamps = {"startedAt": at(began + 10 * restarts), "finishedAt": at(ended)}
            state = {"terminated": {"containerID": id, **stamps}}
        statuses.append(
            {
                "name": c,
                "containerID": id,
                "image": image,
                "imageID": "registry:5000/shop/cart@sha256:" + "ab" * 32,
                "restartCount": restarts,
                "state": state,
                "lastState": last,
            }
        )
    m: Object = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "creationTimestamp": at(start),
        "resourceVersion": "1",
    }
    if labels:
        m["labels"] = labels
    if annotations:
        m["annotations"] = annotations
    if owners:
        m["ownerReferences"] = owners
    if dying is not None:
        m["deletionTimestamp"] = at(dying)
    spec: Object = {"nodeName": node, "containers": [{"name": c, "image": image} for c in containers]}
    status: Object = {"phase": phase, "startTime": at(start), "containerStatuses": statuses}
    if host_network:
        spec["hostNetwork"] = True
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "172.30.0.11"}
    return {"metadata": m, "spec": spec, "status": status}


def node(name: str, *ips: str, labels: dict[str, str] | None = None, provider: str = "") -> Object:
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips] + [{"type": "Hostname", "address": name}]
    return {
        "metadata": meta(name, "", labels=labels or {}),
        "spec": {"providerID": provider} if provider else {},
        "status": {
            "addresses": addresses,
            "nodeInfo": {"architecture": "amd64", "osImage": "Debian GNU/Linux 12", "operatingSystem": "linux"},
        },
    }


def service(
    name: str, *ips: str, namespace: str = "shop", ports: tuple[tuple[int, int], ...] = ((80, 0),), **spec: Any
) -> Object:
    """ports: (port, node port)."""
    made = [{"port": p, "protocol": "TCP"} | ({"nodePort": n} if n else {}) for p, n in ports]
    own = {"type": "ClusterIP", "clusterIPs": list(ips), "clusterIP": ips[0] if ips else "", "ports": made} | spec
    return {"metadata": meta(name, namespace) | {"uid": uid_of(f"{namespace}/svc/{name}")}, "spec": own, "status": {}}


def endpoints(service: str, *pods: Object, namespace: str = "shop", number: int = 0) -> Object:
    refs = [
        {"addresses": [p["status"].get("podIP", "")], "targetRef": {"kind": "Pod", "uid": p["metadata"]["uid"]}}
        for p in pods
    ]
    labels = {"kubernetes.io/service-name": service}
    m = meta(f"{service}-{number}", namespace, labels=labels) | {"uid": uid_of(f"{namespace}/slice/{service}/{number}")}
    return {"metadata": m, "addressType": "IPv4", "endpoints": refs}


def ingress(name: str, *services: str, namespace: str = "shop") -> Object:
    paths = [{"path": "/", "backend": {"service": {"name": s}}} for s in services]
    m = meta(name, namespace) | {"uid": uid_of(f"{namespace}/ing/{name}")}
    return {"metadata": m, "spec": {"rules": [{"http": {"paths": paths}}]}}


def replicaset(name: str, parent: Object | None, hash: str, namespace: str = "shop") -> Object:
    m = meta(name, namespace, labels={"pod-template-hash": hash}) | {"uid": uid_of(f"{namespace}/ReplicaSet/{name}")}
    if parent:
        m["ownerReferences"] = [parent]
    return {"metadata": m}


def namespace(name: str, labels: dict[str, str] | None = None) -> Object:
    return {"metadata": meta(name, "", labels=labels or {})}

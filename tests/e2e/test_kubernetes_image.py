"""Our own image (Dockerfile, tools/image.sh) in the cluster: it watches with no right but those that it names.

`zerospan check` ends with a real request over loopback that must come out of the kernel's hooks at both ends.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from kube_cluster import Cluster

IMAGE = "localhost/zerospan:dev"
# What `zerospan check` names, less CAP_SYS_RESOURCE, which kernels from 5.11 on do not need.
CAPABILITIES = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"]


def run(cluster: Cluster, name: str, node: str, container: dict[str, Any], **more: Any) -> tuple[str, int]:
    """What a pod of one container said, and its exit code; `more` goes into the pod's specification."""
    container = {"name": "zerospan", "image": IMAGE, "imagePullPolicy": "Never", **container}
    spec = {
        "restartPolicy": "Never",
        "nodeName": node,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, **more}}
    cluster.apply(json.dumps(pod))
    try:
        # a container that could not be started is terminated, too
        ended = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
        cluster.wait(f"pod/{name}", ended, timeout_s=60)
        state = cluster.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
        assert state["reason"] != "StartError", state
        return cluster.kubectl("logs", name), int(state["exitCode"])
    finally:
        cluster.kubectl("delete", "pod", name, "--now")


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_the_agent_watches_in_a_pod_with_five_capabilities(cluster: Cluster, node: str) -> None:
    container = {
        "args": ["check"],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": CAPABILITIES},
        },
        "volumeMounts": [{"name": "cgroups", "mountPath": "/sys/fs/cgroup", "readOnly": True}],
    }
    volumes = [{"name": "cgroups", "hostPath": {"path": "/sys/fs/cgroup"}}]
    said, code = run(cluster, f"check-{node}", node, container, hostPID=True, volumes=volumes)
    assert code == 0, said
    assert "ok    self-test" in said, said


def test_without_rights_check_fails_and_names_them(cluster: Cluster) -> None:
    context = {"readOnlyRootFilesystem": True, "runAsUser": 65532, "capabilities": {"drop": ["ALL"]}}
    said, code = run(cluster, "powerless", "n1", {"args": ["check"], "securityContext": context}, hostPID=True)
    assert code == 1, said
    assert "CAP_BPF" in said and "ok    self-test" not in said, said


def test_the_image_has_the_enrichers_packages_and_no_tools_to_build_with(cluster: Cluster) -> None:
    """As a user without name and rights, on a read-only root."""
    ask = (
        "import shutil, sys, grpc, kubernetes.config, msgspec, google.protobuf, zerospan.enricher;"
        "import zerospan.exporter.engine;"
        "print([tool for tool in sys.argv[1:] if shutil.which(tool)])"
    )
    tools = ["gcc", "cc", "clang", "ld", "as", "make", "pip", "apt-get", "perl"]
    context = {
        "readOnlyRootFilesystem": True,
        "runAsUser": 65532,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {"command": ["python3", "-c", ask, *tools], "securityContext": context}
    # perl: Debian's essential packages have a small one of their own (perl-base)
    assert run(cluster, "packages", "n2", container) == ("['perl']\n", 0)

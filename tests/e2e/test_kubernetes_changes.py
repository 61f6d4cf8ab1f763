"""What changes while requests pass: pods that are replaced or live briefly; agents, enrichers, the API server that end.

Nothing wrong is ever stamped: each answer says which pod gave it, and each span is held against that. What is missing
is counted, and comes back.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends.stack import Stack
from kube_chart import NAMESPACE, Chart
from kube_load import judge, load, told_of, until
from kube_truth import Truth

NUMBER = itertools.count(int(time.time()))
ROLLS = """
apiVersion: v1
kind: Namespace
metadata: {name: changes}
---
apiVersion: v1
kind: Service
metadata: {name: rolls, namespace: changes}
spec:
  selector: {app: rolls}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolls, namespace: changes}
spec:
  replicas: 2
  selector: {matchLabels: {app: rolls}}
  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: rolls}}
    spec:
      nodeName: n2
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
        - name: httpd
          image: localhost/zk/tools:1
          imagePullPolicy: Never
          command: [/bin/sh, -c, 'echo "$POD" >/tmp/index.html && exec busybox httpd -f -p 8080 -h /tmp']
          env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"""


def rid() -> str:
    return f"kc{os.getpid()}x{next(NUMBER)}"


@pytest.fixture(scope="module")
def rolls(chart: Chart, truth: Truth) -> Iterator[Chart]:
    chart.cluster.apply(ROLLS)
    chart.cluster.wait_rollout("deployment/rolls", namespace="changes")
    until(lambda: answered(chart, truth), "the service answers")
    yield chart
    chart.cluster.kubectl("delete", "namespace", "changes", "--wait=false")


def answered(chart: Chart, truth: Truth) -> bool:
    name = rid()
    with load(chart.cluster, truth.pod("more", "page", "n1"), "rolls.changes", name, rate=20, seconds=0.3) as one:
        return bool(one.answers(least=0))


def all_right(rolls: Chart, truth: Truth, stack: Stack, timeout_s: float = 60.0) -> None:
    """Requests from the other node are told rightly, all of them, within this time.

    Some may be lost before: kube-proxy follows a rollout a moment later than the rollout ends.
    """
    end = time.monotonic() + timeout_s
    while True:
        with load(rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=5, seconds=1.5) as some:
            verdict = judge(stack, some, some.answers(least=0), wait_s=10)
        assert not verdict.wrong, verdict
        if 0 < 4 * verdict.asked == verdict.right:
            return
        assert time.monotonic() < end, verdict


def killed(chart: Chart, node: str, container: str) -> None:
    """kill -9 for the program of one of the containers in the agent's pod of a node; returns when it runs again."""
    pod = chart.pod(node)

    def status() -> dict[str, Any]:
        found = chart.cluster.get("pod", pod, "-n", NAMESPACE)["status"]["containerStatuses"]
        return next(one for one in found if one["name"] == container)

    before = status()
    identity = before["containerID"].rpartition("/")[2]
    [folder] = chart.cluster.nodes[node].cgroup.glob(f"kubepods/*/pod*/{identity}")
    for pid in (folder / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: status()["restartCount"] > before["restartCount"] and status()["ready"], status)


def test_a_rolling_update_under_load_with_addresses_used_again(rolls: Chart, truth: Truth, stack: Stack) -> None:
    """Old and new pods have the same addresses one after the other; each request is told of the pod that answered."""
    node, done = rolls.cluster.n2, threading.Event()

    def keep_reusing() -> None:
        while not done.wait(0.02):
            node.reuse_addresses()

    reusing = threading.Thread(target=keep_reusing)
    reusing.start()
    try:
        with load(
            rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=15, seconds=22
        ) as running:
            for _ in range(3):
                time.sleep(1)
                rolls.cluster.kubectl("rollout", "restart", "deployment/rolls", "-n", "changes")
                rolls.cluster.wait_rollout("deployment/rolls", namespace="changes")
            answers = running.answers()
    finally:
        done.set()
        reusing.join()
    truth.refresh()
    addresses = [pod["status"].get("podIP") for pod in truth.all("changes", "rolls")]
    assert len(addresses) >= 8 and len(set(addresses)) < len(addresses), f"no address was used again: {addresses}"
    assert len(set(answers.values())) >= 4, "fewer pods answered than there were"
    verdict = judge(stack, running, answers)
    assert not verdict.wrong, verdict
    assert verdict.right >= 0.97 * 4 * verdict.asked, verdict


BRIEF = {
    "restartPolicy": "Never",
    "nodeName": "n2",
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": 0,
}


def test_a_pod_that_lives_two_seconds_and_its_init_container(rolls: Chart, truth: Truth, stack: Stack) -> None:
    """Each of three pods takes the address of the one before; containers of a pod are told apart."""
    name, wanted, pods = rid(), {}, []
    for number in range(3):
        rolls.cluster.n2.reuse_addresses()
        containers = []
        for kind, more in (("first", ""), ("then", "; sleep 1")):
            agent = f"{name}-{number}{kind}-"
            wanted[agent] = (f"brief-{number}", kind)
            ask = f"curl -s --max-time 5 -A {agent} http://rolls.changes.svc.cluster.local/{more}"
            containers.append({"name": kind, "image": "localhost/zk/tools:1", "imagePullPolicy": "Never",
                               "command": ["/bin/sh", "-c", ask]})  # fmt: skip
        spec = {**BRIEF, "initContainers": containers[:1], "containers": containers[1:]}
        meta = {"name": f"brief-{number}", "namespace": "changes"}
        pods.append(meta["name"])
        rolls.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))
        rolls.cluster.wait(
            f"pod/{meta['name']}", "jsonpath={.status.phase}=Succeeded", namespace="changes", timeout_s=30
        )
        rolls.cluster.kubectl("delete", "pod", meta["name"], "-n", "changes", "--now")
    addresses = {pod["status"].get("podIP") for pod in truth.all("changes") if pod["metadata"]["name"] in pods}
    assert len(addresses) < 3, "no address was used again"
    clients: dict[str, dict[str, str]] = {}
    servers: dict[str, dict[str, str]] = {}

    def told() -> bool:
        clients.update(told_of(stack, name, "client"))
        servers.update(told_of(stack, name, "server"))
        return clients.keys() >= wanted.keys() and servers.keys() >= wanted.keys()

    until(told, lambda: (sorted(clients), sorted(servers)), 30)
    for agent, (pod, container) in wanted.items():
        said = clients[agent]
        assert (said.get("k8s.pod.name"), said.get("k8s.container.name")) == (pod, container), (agent, said)
        assert servers[agent].get("zerospan.peer.k8s.pod.name") == pod, (agent, servers[agent])


def test_an_agent_that_is_killed_comes_back(rolls: Chart, truth: Truth, stack: Stack) -> None:
    with load(rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=10, seconds=10) as running:
        time.sleep(2)
        killed(rolls, "n2", "agent")
        answers = running.answers()
    verdict = judge(stack, running, answers, wait_s=6)
    assert not verdict.wrong, verdict
    assert 0 < verdict.absent < 4 * verdict.asked, "what passed while it was away is missing, the rest is there"
    all_right(rolls, truth, stack)
    assert rolls.status("n2")["enricher"]["in_sync"]


def test_an_enricher_that_is_killed_is_not_missed_but_for_new_pods(rolls: Chart, truth: Truth, stack: Stack) -> None:
    """The agent goes on with what it knows, says that it is away, and takes it up again."""
    before = rolls.status("n2")["enricher"]["events"]
    with load(rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=10, seconds=8) as running:
        time.sleep(1)
        killed(rolls, "n2", "enricher")
        answers = running.answers()
    verdict = judge(stack, running, answers)
    assert not verdict.wrong and verdict.right == 4 * verdict.asked, verdict
    after = rolls.status("n2")["enricher"]
    assert after["connected"] and after["events"]["connects"] > before["connects"], after
    assert after["events"]["failures"] > before["failures"], after
    rolls.cluster.kubectl("rollout", "restart", "deployment/rolls", "-n", "changes")
    rolls.cluster.wait_rollout("deployment/rolls", namespace="changes")
    all_right(rolls, truth, stack)


def test_the_clusters_enrichers_may_be_replaced(rolls: Chart, truth: Truth, stack: Stack) -> None:
    with load(rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=10, seconds=8) as running:
        rolls.cluster.kubectl("delete", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=enricher", "--now")
        answers = running.answers()
    verdict = judge(stack, running, answers)
    assert not verdict.wrong and verdict.right == 4 * verdict.asked, verdict
    rolls.ready()
    all_right(rolls, truth, stack)


def metric(chart: Chart, name: str) -> float:
    """The sum of a metric over the cluster's enrichers, as they serve it to who has the token."""
    right = f"Authorization: Bearer {chart.token()}"
    total = 0.0
    for pod in chart.enrichers():
        text = chart.ask_enricher(pod, "/metrics", "-H", right)
        total += sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
    return total


def test_the_api_server_is_killed_and_forgets_its_history(rolls: Chart, truth: Truth, stack: Stack) -> None:
    """Requests pass and are told rightly; that it is away is counted. When it is back, with the version expired from
    which the watches would go on, all is listed anew, also what came and went meanwhile."""
    errors = 'zerospan_enricher_source_errors_total{source="kubernetes"}'
    resyncs = 'zerospan_enricher_source_resyncs_total{source="kubernetes"}'
    before = {name: metric(rolls, name) for name in (errors, resyncs)}
    with load(rolls.cluster, truth.pod("more", "page", "n1"), "rolls.changes", rid(), rate=10, seconds=9) as running:
        time.sleep(1)
        rolls.cluster.stop_api(kill=True)
        time.sleep(3)
        rolls.cluster.expire_resource_versions()
        rolls.cluster.kubectl("rollout", "restart", "deployment/rolls", "-n", "changes")
        answers = running.answers()
    verdict = judge(stack, running, answers)
    assert not verdict.wrong, verdict
    rolls.cluster.wait_rollout("deployment/rolls", namespace="changes")
    until(lambda: all(metric(rolls, name) > count for name, count in before.items()), before, 40)
    all_right(rolls, truth, stack)


def test_nothing_was_left_behind(rolls: Chart) -> None:
    """No agent that ended left a program at an interface of a node, or a file that grows."""
    for node in rolls.cluster.nodes.values():
        found = json.loads(node.run(["bpftool", "net", "show", "-j"]))
        pids = {int(pid) for path in node.cgroup.rglob("cgroup.procs") for pid in path.read_text().split()}
        assert pids and found, found
    out = subprocess.run(["bpftool", "link", "show", "-j"], capture_output=True, text=True, check=True).stdout
    owners = {one["pid"] for link in json.loads(out) for one in link.get("pids", ()) if link.get("type") == "tcx"}
    assert all(Path(f"/proc/{pid}").exists() for pid in owners)

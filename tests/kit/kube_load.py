"""A load inside a test cluster whose answers say who gave them, and the judgement of what was told of each request.

Used by tests/e2e/test_kubernetes_changes.py.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from kube_cluster import PROGRAMS, Cluster

Json = dict[str, Any]
# A connection for each request; the answer's body is the name of the pod.
SCRIPT = """
import http.client, sys, time
host, name, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
end, n = time.monotonic() + seconds, 0
while time.monotonic() < end:
    n += 1
    connection = http.client.HTTPConnection(host, 80, timeout=3)
    try:
        connection.request("GET", "/", headers={"User-Agent": f"{name}-{n}-"})
        answer = connection.getresponse()
        print(f"{name}-{n}-", answer.status, answer.read().decode().strip(), flush=True)
    except OSError as error:
        print(f"{name}-{n}-", 0, type(error).__name__, flush=True)
    connection.close()
    time.sleep(1 / rate)
"""


class Tempo(Protocol):
    """backends/query.py, as far as it matters here."""

    def traceql(
        self, query: str, *, at_least: int = ..., wait_s: float = ..., limit: int = ..., spans: int = ...
    ) -> Any: ...


class Load:
    """name: what its requests' User-Agents begin with. pod: who asks; host: a service whose pods say their names."""

    def __init__(
        self, cluster: Cluster, pod: Json, host: str, name: str, *, rate: float = 10, seconds: float = 15
    ) -> None:
        self.name = name
        self.pod = str(pod["metadata"]["name"])
        meta, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
        argv = [PROGRAMS / "kubectl", "--kubeconfig", cluster.kubeconfig, "exec", "-n", meta["namespace"], meta["name"],
                "-c", container, "--", "python3", "-c", SCRIPT, host, name, str(rate), str(seconds)]  # fmt: skip
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._seconds = seconds

    def answers(self, least: int = 1) -> dict[str, str]:
        """User-Agent -> name of the pod that answered it, of all requests that were answered, once it has ended."""
        out, _ = self._process.communicate(timeout=self._seconds + 60)
        found = {}
        for line in out.splitlines():
            agent, _, rest = line.partition(" ")
            status, _, body = rest.partition(" ")
            if status == "200":
                found[agent] = body
        assert len(found) >= least, out
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def load(*args: Any, **more: Any) -> Iterator[Load]:
    running = Load(*args, **more)
    try:
        yield running
    finally:
        running.stop()


class Verdict(NamedTuple):
    """Of the requests of a load: how many ends were told rightly, without a name, not at all; and the wrong ones."""

    asked: int
    right: int
    unnamed: list[str]
    absent: int
    wrong: list[str]


def judge(tempo: Tempo, load: Load, answers: dict[str, str], *, wait_s: float = 30.0) -> Verdict:
    """Both spans of each request against its answer: whose they are, and who is at the other end.

    Waits until all are there, at most wait_s. A name that is missing is no wrong one.
    """
    end = time.monotonic() + wait_s
    while True:
        verdict = _judge(tempo, load, answers)
        if verdict.wrong or (verdict.absent == 0 and not verdict.unnamed) or time.monotonic() > end:
            return verdict
        time.sleep(1)


def _judge(tempo: Tempo, load: Load, answers: dict[str, str]) -> Verdict:
    right = absent = 0
    unnamed: list[str] = []
    wrong: list[str] = []
    for kind, own, other in (
        ("client", lambda _: load.pod, lambda served: served),
        ("server", lambda served: served, lambda _: load.pod),
    ):
        told = told_of(tempo, load.name, kind)
        for agent, served in answers.items():
            said = told.get(agent)
            if said is None:
                absent += 2
                continue
            for name, value in (("k8s.pod.name", own(served)), ("zerospan.peer.k8s.pod.name", other(served))):
                got = said.get(name, "")
                right += got == value
                if not got:
                    unnamed.append(f"{agent} {kind}: no {name}, {value}")
                elif got != value:
                    wrong.append(f"{agent} {kind}: {name} is {got}, not {value}")
    return Verdict(len(answers), right, unnamed, absent, wrong)


def told_of(tempo: Tempo, name: str, kind: str) -> dict[str, dict[str, str]]:
    """User-Agent -> attributes, of the spans of a kind whose User-Agent begins with a name."""
    query = (
        f'{{ span.user_agent.original =~ "{name}-.*" && kind = {kind} }} | select(resource.k8s.pod.name, '
        "span.zerospan.peer.k8s.pod.name, span.user_agent.original, resource.k8s.container.name, resource.container.id)"
    )
    found = {}
    for trace in tempo.traceql(query, at_least=0, wait_s=5, limit=2000):
        for sets in trace.get("spanSets") or [trace["spanSet"]]:
            for span in sets["spans"]:
                said = {one["key"]: str(one["value"].get("stringValue", "")) for one in span.get("attributes", ())}
                found[said.get("user_agent.original", "")] = said
    return found


def until(check: Callable[[], Any], what: object, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"not in {timeout_s:.0f} s: {what() if callable(what) else what}"
        time.sleep(0.2)

"""Requests in and into a test cluster, and their traces. Used by tests/e2e/test_kubernetes_*.py."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any, Protocol

from kube_cluster import Cluster

CURL = ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10")
SETTLE_S = 2.0
WAIT_S = 40.0


class Tempo(Protocol):
    """backends/query.py, as far as it matters here."""

    def traceql(
        self, query: str, *, at_least: int = ..., wait_s: float = ..., limit: int = ..., spans: int = ...
    ) -> Any: ...
    def spans(self, trace_id: str, *, at_least: int = ..., wait_s: float = ...) -> Any: ...


def curl_from_outside(url: str, *options: str) -> tuple[int, str]:
    """Status and body, by a program that is in no node."""
    argv = [*CURL, "--write-out", "\n%{http_code}", *options, url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    body, _, status = out.rpartition("\n")
    return int(status), body


def ask(cluster: Cluster, pod: dict[str, Any], url: str, agent: str, *options: str) -> str:
    """The answer to curl, with this User-Agent, in the first container of a pod."""
    meta = pod["metadata"]
    container = pod["spec"]["containers"][0]["name"]
    argv: Sequence[str] = (*CURL, "--fail", "--user-agent", agent, *options, url)
    return cluster.kubectl("exec", "-n", meta["namespace"], meta["name"], "-c", container, "--", *argv)


def settled_trace(
    tempo: Tempo, query: str, *, process_spans: int, wait_s: float = WAIT_S, settle_s: float = SETTLE_S
) -> Any:
    """All spans of the one trace that a TraceQL query finds, once it has so many process spans and no more have come
    for settle_s. AssertionError with what there is if it stays short, or if there are several traces.
    """
    end = time.monotonic() + wait_s
    last, since = -1, 0.0
    while True:
        found = tempo.traceql(query, at_least=1, wait_s=max(1.0, end - time.monotonic()))
        ids = {one["traceID"] for one in found}
        spans = tempo.spans(found[0]["traceID"], at_least=1) if len(ids) == 1 else []
        processes = [span for span in spans if span.kind in ("CLIENT", "SERVER")]
        if len(spans) != last:
            last, since = len(spans), time.monotonic()
        if len(processes) >= process_spans and time.monotonic() - since >= settle_s:
            return spans
        assert time.monotonic() < end, (
            f"{query}: {len(ids)} traces, {len(processes)} process spans of {process_spans}: "
            f"{[(span.kind, span.name, span.service) for span in spans]}"
        )
        time.sleep(0.3)

"""Fixtures of the end-to-end tests: the real back ends and the Kubernetes, once in a session; the marker `e2e` on every
test, and `k8s` on those of test_kubernetes_*.py (`make e2e-k8s`).

Without the binaries the tests fail with the command that brings them; they are never skipped.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import kube_chart
import pytest
from kube_cluster import ROOT, Cluster, default_name
from kube_daemon import KubeError
from kube_truth import Truth
from sharing import store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for `backends`, which is no part of the installed package

from backends.program import ProgramError  # noqa: E402
from backends.stack import Stack  # noqa: E402

IMAGES = [ROOT / ".cache/images" / name for name in ("services.image.tar", "zerospan.image.tar")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test of this folder, so that none is forgotten when they are left out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.path.name.startswith("test_kubernetes"):
                item.add_marker(pytest.mark.k8s)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Collector, Tempo, Loki and Prometheus, running and ready. Their logs stay in pytest's temporary folder.

    All tests share them: use ids and label values of your own, `stack.scrape([...])` for Prometheus' targets.
    """
    with contextlib.ExitStack() as stop:
        try:
            running = stop.enter_context(Stack(data=tmp_path_factory.mktemp("backends")))
        except ProgramError as error:
            pytest.fail(str(error), pytrace=False)
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes of two nodes with the services' image and ours on both, and nothing deployed but DNS.

    Its logs stay in .cache/kubernetes. With ZEROSPAN_K8S=keep it is the one of `make k8s-up`, which is left running.
    """
    keep = os.environ.get("ZEROSPAN_K8S") == "keep"
    running = Cluster(default_name("d" if keep else "t"), images=IMAGES)
    try:
        if not (keep and running.attach()):
            running.start()
        yield running
    except KubeError as error:
        pytest.fail(str(error), pytrace=False)
    finally:
        if not keep:
            running.stop()


@pytest.fixture(scope="session")
def deployed(cluster: Cluster) -> Cluster:
    """The cluster with Bookinfo, the shop and the rest of tests/e2e/kubernetes/manifests, all ready."""
    cluster.apply(HERE / "kubernetes/manifests")
    for namespace in ("bookinfo", "shop", "more"):
        kinds = cluster.kubectl(
            "get", "deployments,statefulsets,daemonsets", "--namespace", namespace, "--output", "name"
        )
        cluster.wait_rollout(*kinds.split(), namespace=namespace)
    return cluster


@pytest.fixture(scope="session")
def chart(deployed: Cluster, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_chart.Chart]:
    """Our Helm chart, installed: agents on both nodes send spans to Tempo, logs to Loki, share a Redis; Prometheus
    scrapes them. All tests share it; who changes it, changes it back.
    """
    with store(tmp_path_factory.mktemp("redis"), "--protected-mode", "no") as redis:
        values = kube_chart.values_for(deployed, stack, redis)
        with kube_chart.installed(deployed, values) as running:
            stack.scrape(running.targets(), honor_labels=True)
            yield running
            stack.scrape([])


@pytest.fixture(scope="session")
def truth(chart: kube_chart.Chart) -> Iterator[Truth]:
    """What the API server says of all pods, from here on."""
    with Truth(chart.cluster) as told:
        yield told

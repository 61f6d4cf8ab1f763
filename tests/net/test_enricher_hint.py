"""A new control group makes the kubelet's source look at once: a whole enricher with the real inotify watch, a kubelet
that answers over HTTP and is a little later than the kernel, as the real one is.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kit"))
from fake_kubernetes import Api
from kubernetes_objects import pod

from zerospan.enricher import keys, run
from zerospan.enricher.config import load
from zerospan.enricher.sources.cgroup_watch import tops

POLL_S = 600  # without a hint nobody would look before the test ends


def until(what: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
    return found


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


@pytest.fixture
def top() -> Iterator[Path]:
    made = Path(tops("/sys")[0], f"kube-{os.getpid()}")
    made.mkdir()
    yield made
    for folder in sorted((path for path in made.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    made.rmdir()


@pytest.fixture
def enricher(api: Api, top: Path, tmp_path: Path) -> Iterator[run.Enricher]:
    settings = {
        "listen.unix": str(tmp_path / "s"),
        "node": "n1",
        "sources.cloud.provider": "none",
        "sources.os.cgroups": [str(top)],
        "sources.kubelet.enabled": True,
        "sources.kubelet.url": api.url,
        "sources.kubelet.token_file": "",
        "sources.kubelet.poll_s": POLL_S,
    }
    made = run.build(load(None, {}, settings))
    made.start()
    yield made
    made.stop()


def test_a_new_pod_is_known_without_waiting_for_the_next_look(api: Api, top: Path, enricher: run.Enricher) -> None:
    until(enricher.in_sync)
    looks = len(api.requests)
    time.sleep(0.5)
    assert len(api.requests) == looks  # nobody looks without a reason
    outside = top / "machine.slice"
    outside.mkdir()
    time.sleep(0.5)
    assert len(api.requests) == looks  # a group that is no pod's is none
    one = pod("cart-x", "10.0.0.1", "n1", uid=str(uuid.uuid4()))
    id = one["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    groups = top / "kubepods.slice" / f"kubepods-pod{one['metadata']['uid'].replace('-', '_')}.slice"
    (groups / f"cri-containerd-{id}.scope").mkdir(parents=True)
    made = time.monotonic()
    until(lambda: len(api.requests) > looks)
    api.put("/pods", one)  # the kubelet tells of it after the kernel
    found = until(lambda: enricher.store.find(keys.address("10.0.0.1")), 3)
    assert found.get("k8s.pod.name") == "cart-x" and time.monotonic() - made < 3
    container = until(lambda: (t := enricher.store.find(keys.container(id))) and t.get("k8s.pod.name") and t)
    assert container.get("k8s.container.name") == "app"
    assert len(api.requests) - looks <= 5

"""Containers of this machine by real control groups, v1 and v2, and real processes in them, as a kubelet makes them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.cgroup_watch import tops
from zerospan.enricher.sources.os import OsConfig, OsSource
from zerospan.enricher.store import TagStore


def wait(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)
    return found


def remove(top: Path) -> None:
    """A control group with all in it; their processes have been told to end."""
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            gone(folder)
    if top.is_dir():
        gone(top)


def gone(folder: Path) -> None:
    def tried() -> bool:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    wait(tried)


@pytest.fixture(params=tops("/sys"), ids=lambda top: Path(top).name)
def top(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cgroupRoot of our own, in each hierarchy that is watched by default."""
    made = Path(request.param, f"osx-{os.getpid()}")
    made.mkdir()
    yield made
    remove(made)


@pytest.fixture
def store() -> TagStore:
    return TagStore()


@pytest.fixture
def source(top: Path, store: TagStore) -> Iterator[OsSource]:
    source = OsSource(store, OsConfig(cgroups=(str(top),)), "n1")
    source.start()
    wait(source.watch.in_sync.is_set)
    yield source
    source.stop()


class Pod:
    """A pod with one container and a process in it."""

    def __init__(self, top: Path, seconds: str) -> None:
        self.uid, self.id = str(uuid.uuid4()), os.urandom(32).hex()
        self.folder = top / "kubepods" / "besteffort" / f"pod{self.uid}"
        self.folder.mkdir(parents=True)
        (self.folder / os.urandom(32).hex()).mkdir()  # the sandbox
        (self.folder / self.id).mkdir()
        self.process = subprocess.Popen(["sleep", seconds])
        (self.folder / self.id / "cgroup.procs").write_text(str(self.process.pid))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        remove(self.folder)


def test_a_pod_that_lives_two_seconds_is_known_while_it_lives(top: Path, source: OsSource, store: TagStore) -> None:
    """What the pod is comes 0.3 s late, as from a kubelet; the container has it long before the pod ends, and after."""
    hints: list[tuple[str, str]] = []
    source.containers.on_new(lambda container, uid, path: hints.append((container, uid)))
    pod = Pod(top, "2")
    try:
        found = wait(lambda: store.find(keys.container(pod.id)))
        assert pod.process.poll() is None
        assert found.get("k8s.pod.uid") == pod.uid and found.get("host.name") == os.uname().nodename
        wait(lambda: len(hints) == 3)  # pod, sandbox, container
        assert {uid for _, uid in hints} == {pod.uid} and hints[0][0] == "" and pod.id in (hints[1][0], hints[2][0])
        assert source.containers.pod_uid(pod.id) == pod.uid
        time.sleep(0.3)
        tags = store.make({"k8s.pod.name": "short-1", "k8s.pod.uid": pod.uid, "service.name": "short"})
        store.put(keys.pod(pod.uid), tags, layer=Layer.KUBELET, since_ns=time.time_ns())
        wait(lambda: store.find(keys.container(pod.id)).get("k8s.pod.name") == "short-1")  # type: ignore[union-attr]
        assert pod.process.poll() is None
        process = source.lookup(pod.process.pid)
        assert process is not None
        assert process["container.id"] == pod.id and process["k8s.pod.name"] == "short-1"
        assert process["service.name"] == "short" and process["process.executable.name"] in ("sleep", "coreutils")
        lived = time.time_ns()
        pod.process.wait()
        remove(pod.folder)
        wait(lambda: store.find(keys.container(pod.id)) is None)
        late = store.find(keys.container(pod.id), lived)
        assert late is not None and late.get("k8s.pod.name") == "short-1"
        wait(lambda: len(source.containers) == 0)
    finally:
        pod.end()


def test_many_short_containers_are_all_seen(top: Path, source: OsSource, store: TagStore) -> None:
    """Each is removed as soon as it is known, so that the next one comes while the watch is at work."""
    seen: list[str] = []
    source.containers.on_new(lambda container, uid, path: seen.append(container))
    pods = top / "kubepods"
    ids = [os.urandom(32).hex() for _ in range(300)]
    for id in ids:
        folder = pods / f"pod{uuid.uuid4()}" / id
        folder.mkdir(parents=True)
        wait(lambda id=id: store.find(keys.container(id)))  # type: ignore[misc]
        folder.rmdir()
        folder.parent.rmdir()
    assert [id for id in seen if id] == ids
    wait(lambda: len(source.containers) == 0)
    assert source.watch.folders() == 2 and source.stats().errors == 0


def test_all_groups_of_the_machine_are_watched_by_default(top: Path, store: TagStore) -> None:
    """Nested in another container's group, as of a node that is one."""
    outer, inner = os.urandom(32).hex(), os.urandom(32).hex()
    uid = str(uuid.uuid4())
    source = OsSource(store, OsConfig(), "n1")
    source.start()
    try:
        wait(source.watch.in_sync.is_set)
        (top / "docker" / outer / "kubelet" / "kubepods" / f"pod{uid}" / inner).mkdir(parents=True)
        found = wait(lambda: store.find(keys.container(inner)))
        assert found.get("k8s.pod.uid") == uid
        found = wait(lambda: store.find(keys.container(outer)))
        assert found.get("container.runtime") == "docker" and not found.get("k8s.pod.uid")
        remove(top / "docker")
        wait(lambda: store.find(keys.container(inner)) is None and store.find(keys.container(outer)) is None)
    finally:
        source.stop()

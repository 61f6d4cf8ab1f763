"""This host's tags, its containers by a tree of folders that changes, its processes. No root: inotify needs none."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_cases import Proc

from zerospan.enricher import keys
from zerospan.enricher.names import TAGS
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.cgroup_watch import CgroupWatch, tops
from zerospan.enricher.sources.containers import HostContainers
from zerospan.enricher.sources.os import OsConfig, OsSource, os_release
from zerospan.enricher.sources.processes import masked
from zerospan.enricher.store import TagStore
from zerospan.exporter.process.containers import Containers
from zerospan.exporter.process.program import program

ID, OTHER = "c0ffee" * 10 + "cafe", "ab" * 32
UID = "3ff91a52-77aa-4c0e-9d2b-0123456789ab"


def wait(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host's file system."""
    etc = tmp_path / "host" / "etc"
    etc.mkdir(parents=True)
    (etc / "hostname").write_text("till-7\n")
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "os-release").write_text('NAME=\'Acme Linux\'\nVERSION_ID=7\nPRETTY_NAME="Acme \\"7\\" (till)"\nID=acme\n')
    (tmp_path / "host/sys/fs/cgroup/kubepods").mkdir(parents=True)
    (tmp_path / "host/sys/fs/cgroup/cgroup.controllers").write_text("")
    return tmp_path / "host"


@pytest.fixture
def store() -> TagStore:
    return TagStore()


@pytest.fixture
def source(root: Path, store: TagStore) -> Iterator[OsSource]:
    Proc(root / "proc")
    source = OsSource(store, OsConfig(root=str(root), process_env=("REGION", "TEAM_*")), "n1")
    yield source
    source.stop()


def tags(store: TagStore, key: bytes) -> dict[str, str]:
    found = store.find(key)
    return found.tags() if found is not None else {}


def test_the_host_is_told_by_its_files(source: OsSource, store: TagStore) -> None:
    source.start()
    found = tags(store, keys.node("n1"))
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert found == {
        "host.name": "till-7",
        "host.id": "0123456789abcdef0123456789abcdef",
        "host.arch": arch,
        "os.type": "linux",
        "os.name": "Acme Linux",
        "os.version": "7",
        "os.description": 'Acme "7" (till)',
    }
    assert set(found) <= set(TAGS)
    assert store.of_node("n1") == [keys.node("n1")]


def test_a_release_file_that_says_nothing_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert os_release(str(tmp_path)) == {}
    (tmp_path / "etc/os-release").write_bytes(b'\xff\0NAME=\nPRETTY_NAME="unclosed\n' + b"x" * 200_000)
    assert os_release(str(tmp_path)) == {}


def test_containers_come_and_go_with_their_groups(root: Path, source: OsSource, store: TagStore) -> None:
    cgroups = root / "sys/fs/cgroup"
    (cgroups / "kubepods" / f"pod{UID}" / OTHER).mkdir(parents=True)  # older than the enricher
    hints: list[tuple[str, str]] = []
    source.containers.on_new(lambda container, uid, path: hints.append((container, uid)))
    source.start()
    wait(source.watch.in_sync.is_set)
    assert tags(store, keys.container(OTHER))["k8s.pod.uid"] == UID
    new = UID.replace("3", "4")
    pod = cgroups / "kubepods/burstable" / f"pod{new}"
    pod.mkdir(parents=True)
    (pod / ID).mkdir()
    found = wait(lambda: tags(store, keys.container(ID)))
    assert found["k8s.pod.uid"] == new and found["container.id"] == ID and found["host.name"] == "till-7"
    assert hints == [("", UID), (OTHER, UID), ("", new), (ID, new)]
    assert source.containers.pod_uid(ID) == new
    assert source.stats().entities["container"] == 2
    (pod / ID).rmdir()
    wait(lambda: not tags(store, keys.container(ID)))
    before = store.pieces(keys.container(ID))
    assert len(before) == 1 and before[0].since_ns == 0 and before[0].until_ns <= time.time_ns()
    assert store.find(keys.container(ID), before[0].until_ns - 1)  # what it was while it ran
    assert source.stats().entities["container"] == 1


def test_a_container_stands_on_its_pod_as_soon_as_anybody_tells(root: Path, source: OsSource, store: TagStore) -> None:
    source.start()
    (root / "sys/fs/cgroup/kubepods" / f"pod{UID}" / ID).mkdir(parents=True)
    wait(lambda: tags(store, keys.container(ID)))
    pod = store.make({"k8s.pod.name": "cart-0", "k8s.pod.uid": UID})
    store.put(keys.pod(UID), pod, layer=Layer.KUBELET, since_ns=time.time_ns())
    wait(lambda: tags(store, keys.container(ID)).get("k8s.pod.name") == "cart-0")
    changed = store.make({"k8s.pod.name": "cart-0", "k8s.pod.uid": UID, "k8s.pod.label.tier": "front"})
    store.put(keys.pod(UID), changed, layer=Layer.KUBELET, since_ns=time.time_ns())
    wait(lambda: tags(store, keys.container(ID)).get("k8s.pod.label.tier") == "front")
    # what it was holds when its pod is no more
    store.end(keys.pod(UID), layer=Layer.KUBELET)
    store.put(keys.pod("other"), changed, layer=Layer.KUBELET, since_ns=1)
    time.sleep(0.1)
    assert tags(store, keys.container(ID)).get("k8s.pod.label.tier") == "front"
    # what knows better wins
    better = store.make({"k8s.pod.name": "cart-0", "k8s.container.name": "app"})
    store.put(keys.container(ID), better, layer=Layer.KUBERNETES, since_ns=1)
    assert tags(store, keys.container(ID))["k8s.container.name"] == "app"


def test_a_container_outside_kubernetes_has_its_runtimes_name(root: Path, source: OsSource, store: TagStore) -> None:
    """Also where the runtime writes it late."""
    source.start()
    (root / f"sys/fs/cgroup/system.slice/docker-{ID}.scope/inner").mkdir(parents=True)
    assert "container.name" not in wait(lambda: tags(store, keys.container(ID)))
    path = root / f"var/lib/docker/containers/{ID}/config.v2.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"Name": "/till", "Config": {"Image": "acme/till:2"}}))
    wait(lambda: tags(store, keys.container(ID)).get("container.name") == "till")
    found = tags(store, keys.container(ID))
    assert (found["service.name"], found["container.runtime"]) == ("till", "docker")
    assert (found["container.image.name"], found["container.image.tags"]) == ("acme/till", "2")
    assert set(found) <= set(TAGS)


def test_containers_beyond_the_limit_are_counted(root: Path, store: TagStore) -> None:
    Proc(root / "proc")
    source = OsSource(store, OsConfig(root=str(root)), "n1")
    source.containers._limit = 3
    for i in range(8):
        (root / f"sys/fs/cgroup/docker/{i:064x}").mkdir(parents=True)
    source.start()
    try:
        wait(source.watch.in_sync.is_set)
        assert len(source.containers) == 3 and source.containers.refused == 5
        assert source.stats().errors == 5
    finally:
        source.stop()


class Tree:
    """What a watch has told."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    def came(self, path: str) -> None:
        assert path not in self.there
        self.there.add(path)

    def went(self, path: str) -> None:
        self.there.remove(path)


def folders(top: Path) -> set[str]:
    return {str(top), *(str(path) for path in top.rglob("*") if path.is_dir())}


@pytest.mark.parametrize("max_watches", [65536, 3])
def test_the_watch_follows_the_tree(max_watches: int, tmp_path: Path) -> None:
    """Many folders made and removed as fast as may be; with too few watches it follows later, and says so."""
    tree, top = Tree(), tmp_path / "top"
    top.mkdir()
    watch = CgroupWatch([str(top)], tree.came, tree.went, max_watches=max_watches)
    watch.start()
    try:
        wait(watch.in_sync.is_set)
        for i in range(60):
            (top / f"a{i % 7}" / f"b{i}" / "c").mkdir(parents=True)
            if i % 3 == 0:
                (top / f"a{i % 7}" / f"b{i}" / "c").rmdir()
                (top / f"a{i % 7}" / f"b{i}").rmdir()
        (top / "a1").rename(top / "renamed")
        wait(lambda: tree.there == folders(top))
        assert (watch.unwatched > 0) == (max_watches == 3)
    finally:
        watch.stop()
    assert watch.failures == 0


def test_a_top_that_comes_later_and_goes(tmp_path: Path) -> None:
    tree, top = Tree(), tmp_path / "n1"
    watch = CgroupWatch([str(top)], tree.came, tree.went)
    watch.start()
    try:
        wait(watch.in_sync.is_set)
        assert tree.there == set()
        (top / "x").mkdir(parents=True)
        wait(lambda: tree.there == folders(top))
        (top / "x").rmdir()
        top.rmdir()
        wait(lambda: tree.there == set())
        (top / "y").mkdir(parents=True)
        wait(lambda: tree.there == folders(top))
    finally:
        watch.stop()
    assert watch.failures == 0


def test_a_look_that_fails_is_counted_and_the_next_one_makes_it_good(
    tmp_path: Path, store: TagStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, group = tmp_path / "top", f"docker-{ID}.scope"
    top.mkdir()
    host = HostContainers(store, Containers(str(tmp_path)), "n1", lambda: None)
    watch = CgroupWatch([str(top)], host.came, host.went)

    def fails_twice(real: Any) -> Any:
        calls = iter((1, 2))

        def call(*args: Any) -> Any:
            if next(calls, 0):
                raise KeyError("a bug")
            return real(*args)

        return call

    monkeypatch.setattr(watch, "_add", fails_twice(watch._add))
    monkeypatch.setattr("zerospan.enricher.sources.cgroup_watch.COMPARE_BLIND_S", 0.05)
    monkeypatch.setattr("zerospan.enricher.sources.containers.RETRY_S", (0.02, 0.02, 0.02))
    host.start()
    watch.start()
    try:
        wait(watch.in_sync.is_set)
        wait(lambda: not watch.failing)
        assert watch.failures == 2
        (top / group).mkdir()
        wait(lambda: store.find(keys.container(ID)))
        monkeypatch.setattr(host, "_bind", fails_twice(host._bind))
        pod = store.make({"k8s.pod.name": "p"})
        host._of_pod[keys.pod(UID)] = {ID}
        host._containers[ID].uid = UID
        store.put(keys.pod(UID), pod, layer=Layer.KUBERNETES, since_ns=1)
        wait(lambda: (found := store.find(keys.container(ID))) is not None and found.get("k8s.pod.name") == "p")
        wait(lambda: not host.failing)
        assert host.failures == 2
    finally:
        watch.stop()
        host.stop()


def test_names_of_containers_are_found_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerospan.exporter.process.containers.CACHE", 4)
    ids = [f"{i:064x}" for i in range(16)]
    for id in ids:
        folder = tmp_path / "var/lib/docker/containers" / id
        folder.mkdir(parents=True)
        (folder / "config.v2.json").write_text(json.dumps({"Name": f"/name-{id}"}))

    class Slow(dict[str, Any]):
        def __delitem__(self, key: str) -> None:
            time.sleep(0.0001)  # others run meanwhile
            super().__delitem__(key)

    files = Containers(str(tmp_path))
    files._known = Slow()
    failed: list[BaseException] = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(200):
                id = rng.choice(ids)
                found = files.find(id)
                assert found is not None and found.name == f"name-{id}"
                if rng.random() < 0.3:
                    files.forget(rng.choice(ids))
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(files._known) <= 4


def test_a_callback_that_fails_costs_one_folder(tmp_path: Path) -> None:
    told: list[str] = []

    def came(path: str) -> None:
        if path.endswith("/b"):
            raise KeyError("a bug")
        told.append(path)

    for name in "abc":
        (tmp_path / name).mkdir()
    watch = CgroupWatch([str(tmp_path)], came, lambda path: None)
    watch.start()
    try:
        wait(watch.in_sync.is_set)
        (tmp_path / "d").mkdir()
        wait(lambda: str(tmp_path / "d") in told)
        assert sorted(told) == [str(tmp_path), *(f"{tmp_path}/{name}" for name in "acd")] and watch.failures == 1
    finally:
        watch.stop()


def test_lost_events_are_counted_and_made_good(tmp_path: Path) -> None:
    """The watch stands still while more happens than the kernel keeps (fs.inotify.max_queued_events)."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the kernel keeps more events than can be made here")
    tree, top = Tree(), tmp_path / "top"
    top.mkdir()

    def came(path: str) -> None:
        tree.came(path)
        if path.endswith("/hold"):
            wait((tmp_path / "go_on").exists, 120)

    watch = CgroupWatch([str(top)], came, tree.went)
    watch.start()
    try:
        wait(watch.in_sync.is_set)
        (top / "hold").mkdir()
        wait(lambda: str(top / "hold") in tree.there)
        for _ in range(limit // 2 + 10):
            (top / "x").mkdir()
            (top / "x").rmdir()
        (top / "last").mkdir()
        (tmp_path / "go_on").mkdir()
        wait(lambda: tree.there == folders(top))
        assert watch.overflows >= 1
    finally:
        watch.stop()
    assert watch.failures == 0


def test_the_folders_of_this_machine() -> None:
    for top in tops("/sys"):
        assert Path(top, "cgroup.procs").exists()


def test_a_process_is_told_on_demand(root: Path, source: OsSource, store: TagStore) -> None:
    proc = Proc.__new__(Proc)
    proc.root = root / "proc"
    source.start()
    environ = ["REGION=eu1", "TEAM_A=x", "DB_PASSWORD=hunter2", "OTEL_RESOURCE_ATTRIBUTES=service.version=9"]
    argv = ["python3", "/srv/shop/cart.py", "--port=1", "--password", "hunter2", "-phunter2", "--pw=hunter2"]
    proc.add(77, "/usr/bin/python3.11", argv, environ=environ, cgroup=f"0::/kubepods/pod{UID}/{ID}\n")
    found = source.lookup(77)
    assert found is not None
    assert found["service.name"] == "cart" and found["process.runtime.version"] == "3.11"
    assert found["process.command_line"] == "python3 /srv/shop/cart.py --port=? --password ? ? --pw=?"
    assert found["zerospan.process.env.REGION"] == "eu1" and found["zerospan.process.env.TEAM_A"] == "x"
    assert "hunter2" not in str(found) and not any("DB_PASSWORD" in key for key in found)
    assert found["host.name"] == "till-7" and found["container.id"] == ID
    assert found["service.instance.id"] == "till-7:77"
    assert {k for k in found if not k.startswith(("zerospan.process.env.", "telemetry."))} <= set(TAGS)
    # its pod's tags, as soon as they are known; what the process says of itself stays
    pod = {"k8s.pod.name": "cart-0", "service.name": "cart-svc", "service.version": "1", "service.instance.id": "i"}
    store.put(keys.container(ID), store.make(pod), layer=Layer.KUBERNETES, since_ns=1)
    found = source.lookup(77)
    assert found is not None
    assert (found["service.name"], found["service.version"]) == ("cart-svc", "9")
    assert (found["service.instance.id"], found["k8s.pod.name"]) == ("i", "cart-0")
    proc.add(78, environ=["OTEL_SERVICE_NAME=till"], cgroup=f"0::/kubepods/pod{UID}/{ID}\n")
    found = source.lookup(78)
    assert found is not None and found["service.name"] == "till"
    assert source.lookup(79) is None
    for order, name in (
        (("executable", "kubernetes"), "cart"),
        (("kubernetes", "env"), "cart-svc"),
        (("env",), "cart"),
    ):
        other = OsSource(store, OsConfig(root=str(root), service_order=order), "n1")
        found = other.lookup(77)
        assert found is not None and (found["service.name"], found["k8s.pod.name"]) == (name, "cart-0")
        other.stop()


def test_nothing_of_an_environment_is_told_by_default(root: Path, store: TagStore) -> None:
    proc = Proc(root / "proc")
    proc.add(77, environ=["REGION=eu1"])
    source = OsSource(store, OsConfig(root=str(root)), "n1")
    found = source.lookup(77)
    assert found is not None and "eu1" not in str(found)
    source.stop()


@pytest.mark.parametrize(
    ("exe", "argv", "line"),
    [
        (
            "/usr/bin/java",
            ["java", "-Xmx1g", "-Dpw=x", "-jar", "/srv/shop.jar", "secret"],
            "java ? ? -jar /srv/shop.jar ?",
        ),
        ("/usr/bin/python3", ["python3", "-m", "shop.api", "x"], "python3 -m shop.api ?"),
        ("/usr/bin/python3", ["python3", "-c", "pw = 'x.py'", "a.py"], "python3 -c ? ?"),
        ("/usr/sbin/mysqld", ["mysqld", "--defaults-file=/x", "-psecret"], "mysqld --defaults-file=? ?"),
        ("/usr/bin/till", ["till serve --token=abc"], "till"),
        ("/usr/bin/sh", ["sh", "-c", "curl -u a:b http://x"], "sh -c ?"),
        ("/usr/bin/till", ["till", "--a b=c", ""], "till ? ?"),
        ("/usr/bin/till", [], ""),
        ("/usr/bin/till", ["", ""], "? ?"),
    ],
)
def test_arguments_are_masked(exe: str, argv: list[str], line: str) -> None:
    assert masked(argv, program(exe, tuple(argv), "/", "")) == line


def test_a_real_process_of_this_machine(store: TagStore) -> None:
    source = OsSource(store, OsConfig(), "n1")
    child = subprocess.Popen(["sleep", "60"])
    try:
        wait(lambda: Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"sleep"))
        found = source.lookup(child.pid)
        assert found is not None
        assert found["process.executable.name"] in ("sleep", "coreutils", "busybox")
        assert found["process.command_line"] == "sleep ?" and found["host.name"] == os.uname().nodename
        (piece,) = source.pieces(keys.process("n1", child.pid))
        assert piece.tags.tags() == found and abs(piece.since_ns - time.time_ns()) < 60 * 10**9
        assert source.pieces(keys.process("n1", child.pid), piece.since_ns - 1) == []  # another had the number then
        assert source.pieces(keys.process("n2", child.pid)) == []
        assert source.pieces(b"p") == source.pieces(b"pn1\0x") == source.pieces(b"pn1\0" + b"9" * 10) == []
    finally:
        child.kill()
        child.wait()
        source.stop()

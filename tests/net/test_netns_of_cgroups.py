"""The network namespaces that processes of control groups are in: what limits NIC points to one of several nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cgroup
import pytest

from zerospan.exporter.source import netns
from zerospan.exporter.source.capture import CaptureError, cgroup_folder


@pytest.fixture
def nodes() -> Iterator[list[Path]]:
    """Two nodes' groups with a container's below each."""
    top = cgroup.root() / f"zerospan-test-nodes-{os.getpid()}"
    made = [top / name for name in ("n1", "n2")]
    for folder in made:
        (folder / "pod/container").mkdir(parents=True)
    try:
        yield made
    finally:
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        top.rmdir()


def test_only_namespaces_of_the_groups_processes_are_found(nodes: list[Path]) -> None:
    started = []
    inodes = []
    try:
        for folder in nodes:
            inside = "unshare --net sh -c 'echo up; exec sleep 100'"
            enter = f"echo $$ >{folder}/pod/container/cgroup.procs && exec {inside}"
            process = subprocess.Popen(["sh", "-c", enter], stdout=subprocess.PIPE, text=True)
            started.append(process)
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            inodes.append(os.stat(f"/proc/{process.pid}/ns/net").st_ino)
        first, second = inodes
        assert set(netns.used_by([nodes[0]])) == {first}
        assert set(netns.used_by([nodes[1]])) == {second}
        assert set(netns.used_by(nodes)) == {first, second}
        assert {first, second} <= set(netns.find())
        path = netns.used_by([nodes[0]])[first]
        assert os.stat(path).st_ino == first
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert netns.used_by(nodes) == {}
    assert netns.used_by([Path("/sys/fs/cgroup/none")]) == {}


def test_a_group_is_named_by_its_path_or_below_the_mount(nodes: list[Path]) -> None:
    assert cgroup_folder(str(nodes[0])) == nodes[0]
    assert cgroup_folder(str(nodes[0].relative_to(cgroup.root()))) == nodes[0]
    with pytest.raises(CaptureError, match="no cgroup of version 2"):
        cgroup_folder("/no/such/group")

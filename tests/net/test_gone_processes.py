"""Processes that end before they can be looked at are known by their control group: real ones, by the kernel's ids."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cgroup
import pytest

from zerospan.exporter.config import Config
from zerospan.exporter.process.cgroup_ids import CgroupIds
from zerospan.exporter.process.describe import Describer

UID = "3ff91a2b-0000-4000-8000-0123456789ab"


@pytest.fixture
def containers() -> Iterator[list[Path]]:
    """Control groups of two containers of a pod, as kubelet makes them."""
    top = cgroup.root() / f"zerospan-test-gone-{os.getpid()}"
    made = [top / f"pod{UID}" / (digit * 64) for digit in "ab"]
    for folder in made:
        folder.mkdir(parents=True)
    try:
        yield made
    finally:
        for folder in (*made, top / f"pod{UID}", top):
            if folder.exists():
                folder.rmdir()


def run_in(folder: Path) -> int:
    """A process in the group that has ended: its number."""
    process = subprocess.Popen(["sh", "-c", f"echo $$ >{folder}/cgroup.procs"])
    assert process.wait() == 0
    return process.pid


def test_a_process_that_has_ended_is_of_its_container(containers: list[Path]) -> None:
    describer = Describer(Config(), hidden=set(), host="h1")
    infos = []
    for folder in containers:
        pid, number = run_in(folder), folder.stat().st_ino
        infos.append(describer(pid, "curl", number))
        assert describer(pid + 1_000_000, "curl", number) == infos[-1], "all of them are one entry"
        assert folder.name.encode() in infos[-1].resource
    assert len({info.shared for info in infos}) == 2
    nobody = describer(run_in(containers[0]), "curl")
    assert nobody.shared == "comm:curl" and b"container.id" not in nobody.resource


def test_a_group_that_is_gone_is_known_if_it_was_asked_for_before(containers: list[Path]) -> None:
    ids = CgroupIds()
    first, second = (folder.stat().st_ino for folder in containers)
    assert ids.place(first).container == "a" * 64 and ids.place(first).pod == UID
    for folder in containers:
        folder.rmdir()
    assert ids.place(first).container == "a" * 64
    assert ids.place(second).container == "" and ids.place(0).container == "" and ids.place(1 << 70).container == ""

"""A cluster whose owner was killed is cleared by its name alone: nothing runs, is mounted or named after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cgroup
from kube_cluster import ROOT, Cluster, default_name
from kube_daemon import run

NAME = default_name("k")
START = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests/kit")!r})
from kube_cluster import Cluster
Cluster({NAME!r}, nodes=1).start()
print("started", flush=True)
time.sleep(1000)
"""


def traces() -> dict[str, list[str]]:
    """All that still bears the cluster's name, by kind."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    namespaces = Path("/run/netns")
    found = {
        "processes": [
            pid
            for path in (cgroup.root() / NAME).rglob("cgroup.procs")
            for pid in path.read_text().split()
        ],
        "mounts": [mount for mount in mounts if f"/{NAME}/" in mount],
        "namespaces": [path.name for path in namespaces.glob(f"{NAME}-*")] if namespaces.exists() else [],
        "links": [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(NAME)],
        "tables": [line for line in run(["nft", "list", "tables"]).splitlines() if line.endswith(f" {NAME}")],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{NAME}")],
        "files": [str(path) for path in (Path(f"/run/{NAME}"), Path(f"/run/{NAME}.lock")) if path.exists()],
    }  # fmt: skip
    return {kind: names for kind, names in found.items() if names}


def test_a_killed_run_is_cleared() -> None:
    before = {path.name for path in Path("/run/netns").glob("cni-*")} if Path("/run/netns").exists() else set()
    cluster = Cluster(NAME, nodes=1)
    owner = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "started\n"
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert {"processes", "mounts", "namespaces", "links", "tables", "cgroups", "files"} <= set(traces()), traces()
        pods = {path.name for path in Path("/run/netns").glob("cni-*")} - before
        assert pods  # of the cluster's DNS
    finally:
        owner.kill()
        cluster.stop()
    assert traces() == {}
    assert not pods & {path.name for path in Path("/run/netns").glob("cni-*")}
    assert [path.name for path in cluster.folder.iterdir()] == ["logs"]

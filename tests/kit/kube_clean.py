"""Ends and removes all of a test cluster by its name alone: what runs, mounts, namespaces, links, cgroups, files.

Needs no knowledge of how far a start came, so it also clears what a killed run left. Called by kube_cluster.py.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import cgroup
from kube_daemon import KubeError, run
from kube_node import V1, bundle_namespaces

KILL_S = 10.0


def wipe(name: str, folder: Path) -> None:
    """Everything of cluster `name`, which has its state in `folder` (whose files stay) and /run/NAME."""
    state = Path(f"/run/{name}")
    namespaces = [Path(path).name for node in state.glob("*") for path in bundle_namespaces(node) if "/cni-" in path]
    _kill(cgroup.root() / name)
    _unmount(folder, state)
    known = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line}
    for one in sorted(known):
        if one in namespaces or one.startswith(f"{name}-n"):
            run(["ip", "netns", "delete", one])
    if Path(f"/sys/class/net/{name}").exists():
        run(["ip", "link", "delete", name])
    run(["nft", "delete", "table", "ip", name], check=False)  # of Cluster.expose
    for hierarchy in {cgroup.root(), *V1.iterdir()}:
        if (hierarchy / name / "cgroup.procs").exists():
            _remove_cgroups(hierarchy / name)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{folder}/"):  # kubelet makes them
            link.unlink()
    shutil.rmtree(state, ignore_errors=True)


def _kill(top: Path) -> None:
    """Every process in the cgroup or below; cgroup.kill of cgroups(7) takes them all at once."""
    if not top.exists():
        return
    end = time.monotonic() + KILL_S
    (top / "cgroup.kill").write_text("1")
    while left := [pid for at in (top, *_below(top)) for pid in (at / "cgroup.procs").read_text().split()]:
        if time.monotonic() > end:
            raise KubeError(f"processes {left} do not end by SIGKILL (cgroup {top})")
        time.sleep(0.02)


def _below(top: Path) -> Iterator[Path]:
    for path in sorted(top.rglob("*"), reverse=True):  # the deepest first
        if path.is_dir():
            yield path


def _remove_cgroups(top: Path) -> None:
    end = time.monotonic() + KILL_S
    for path in (*_below(top), top):
        while path.exists():
            try:
                path.rmdir()
            except OSError as error:  # a process that is still going away
                if time.monotonic() > end:
                    raise KubeError(f"cannot remove the cgroup {path}: {error}") from None
                time.sleep(0.02)


def _unmount(*folders: Path) -> None:
    points = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(points, reverse=True):
        if any(point.startswith(f"{folder}/") for folder in folders):
            with contextlib.suppress(KubeError):  # gone with the one above it
                run(["umount", "--lazy", point])

"""What the path of a control group says: container, pod, runtime, systemd unit. Pure functions over paths of v1 and v2.

Layouts: kubelet's two drivers ("cgroupfs": kubepods/burstable/podUID/ID, "systemd": kubepods-burstable-podU_I_D.slice/
cri-containerd-ID.scope) below any cgroupRoot and nested (a node that is itself a container), docker, podman, CRI-O,
nerdctl. The innermost container counts. Called by describe.py and by the enricher's sources.
"""

import re
from typing import NamedTuple

from zerospan.exporter.process import procfs
from zerospan.exporter.process.text import decode

CGROUP_MAX = 8192  # bytes of /proc/PID/cgroup: 13 hierarchies with paths of some 250 characters, and room
# What stands before an id that is not a container's: its monitor, a whole pod of podman's.
CONTAINER = re.compile(r"(?<![0-9a-f])((?:\w+-)*conmon-|libpod_pod_)?([0-9a-f]{64})(?![0-9a-f])")
# A uid, or the hash of a static pod's file; systemd's names have underscores for dashes.
POD = re.compile(r"(?<![0-9A-Za-z])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[/.:]|$)")
RUNTIMES = (
    ("cri-containerd-", "containerd"), ("cri-containerd:", "containerd"), ("nerdctl-", "containerd"),
    ("crio-", "cri-o"), ("docker-", "docker"), ("libpod-", "podman"), ("docker/", "docker"),
)  # fmt: skip


class Place(NamedTuple):
    """Empty texts: none, or the path does not tell."""

    container: str = ""  # 64 hexadecimal digits
    pod: str = ""  # uid with dashes, or 32 hexadecimal digits of a static pod
    runtime: str = ""  # "containerd", "cri-o", "docker", "podman"
    unit: str = ""  # as systemd escapes it, with its suffix


def place(path: str) -> Place:
    """What one path says. A unit counts only inside the innermost container: outside it is the runtime's."""
    found = None
    for match in CONTAINER.finditer(path):
        if not match[1]:
            found = match
    if found is None:
        return Place(pod=_pod(path), unit=_unit(path))
    before = path[: found.start()]
    runtime = next((runtime for start, runtime in RUNTIMES if before.endswith(start)), "")
    inside = path[found.end() :].partition("/")[2]
    return Place(found[2], _pod(before), runtime, _unit(inside))


def of_process(folder: str) -> Place:
    """Of /proc/PID: of the first hierarchy that names a container, else a unit (all say the same, or nothing)."""
    places = [place(path) for path in paths(procfs.read(f"{folder}/cgroup", CGROUP_MAX))]
    for field in ("container", "unit", "pod"):
        for found in places:
            if getattr(found, field):
                return found
    return Place()


def paths(content: bytes) -> list[str]:
    """The paths in the content of /proc/PID/cgroup, hierarchy by hierarchy. cgroups(7)."""
    lines = decode(content).split("\n")
    return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]


def _pod(path: str) -> str:
    found = POD.findall(path)
    return found[-1].replace("_", "-") if found else ""


def _unit(path: str) -> str:
    """The innermost service, else scope. systemd.unit(5)"""
    parts = path.split("/")
    for suffix in (".service", ".scope"):
        for part in reversed(parts):
            if part.endswith(suffix) and len(part) > len(suffix) and part.isprintable():
                return part[:255]
    return ""

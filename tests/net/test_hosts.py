"""The kit of nodes and pods (demo/hosts.py): what it makes is what it says, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from truth_run import PEERS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from demo.hosts import ETC, NETNS, Cluster, HostsError, Pod, remove_left_over  # noqa: E402

DIES = """
import os, signal, sys
from demo.hosts import Cluster
cluster = Cluster("dies").__enter__()
pod = cluster.host("one").pod("a", hosts={"x.test": "10.0.0.1"}, cgroup=True)
pod.run(["sleep", "600"])
print(pod.netns, pod.processes[0].pid, cluster.folder, pod.cgroup, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crashed_program_is_cleaned_up_by_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", DIES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    netns, pid, folder, cgroup = done.stdout.split()
    assert (NETNS / netns).exists() and (ETC / netns / "hosts").exists()
    mine = []
    with Cluster("lives") as cluster:
        mine = [name.name for name in NETNS.iterdir() if name.name.startswith(cluster.mark)]
        assert remove_left_over() == []
        assert all((NETNS / name).exists() for name in mine), "it removed what is in use"
    for gone in (NETNS / netns, ETC / netns, Path(folder), Path(cgroup), *(NETNS / name for name in mine)):
        assert not gone.exists()
    with contextlib.suppress(OSError):  # gone, or dead and not waited for by its new parent
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def accepted(pod: Pod) -> int:
    """Connections that the pod has accepted (RFC 4022 tcpPassiveOpens)."""
    names, values = [line.split() for line in pod.output(["cat", "/proc/net/snmp"]).splitlines() if line[:4] == "Tcp:"]
    return int(values[names.index("PassiveOpens")])


@pytest.mark.parametrize("tunnel", ["vxlan", None])
def test_a_pod_reaches_all_end_points_of_a_service(tunnel: str | None) -> None:
    with Cluster("reach", tunnel=tunnel) as cluster:
        one, two = cluster.host("one"), cluster.host("two")
        client = one.pod("client", hosts={"leaf.test": "10.9.8.7"}, nameserver="10.9.8.6")
        leaves = one.pod("leaf1"), two.pod("leaf2")
        for pod in leaves:
            pod.run([*PEERS, "leaf", "8080", "0.0.0.0"])
            pod.wait_port(8080)
        address = cluster.service("leaf", 80, leaves, 8080)
        assert client.output(["curl", "-sS", f"http://{address}/t/1/0/0"]) == "leaf\n"
        tried = 0
        while {pod.name for pod in leaves if accepted(pod)} != {"leaf1", "leaf2"}:
            client.output(["curl", "-sS", f"http://{address}/t/1/0/0"])
            tried += 1
            assert tried < 60, "one end point was never chosen"
        assert "10.9.8.7 leaf.test" in client.output(["cat", "/etc/hosts"])
        assert "10.9.8.6" in client.output(["cat", "/etc/resolv.conf"])
        cluster.drop(one, 100)
        with pytest.raises(HostsError):
            client.output(["curl", "-sS", "--max-time", "0.5", f"http://{leaves[1].address}:8080/t/1/0/0"])

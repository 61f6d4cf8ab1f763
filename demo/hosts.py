"""Nodes and pods on one machine: network namespaces, veths, bridges, VXLAN, NAT by nftables.

    with Cluster("mytest") as cluster:
        one, two = cluster.host("one"), cluster.host("two")
        shop, stock = one.pod("shop"), two.pod("stock", hosts={"stock.test": "127.0.0.1"})
        address = cluster.service("stock", 80, [stock], 8080, node_port=30080)
        stock.run(["python3", "-m", "http.server", "8080"])
        shop.run(["curl", f"http://{address}/"]).wait()

Each host has `eth0` on a bridge that stands in a namespace of its own (the underlay, 192.168.77.0/24), a bridge `cni0` for
its pods (10.77.N.0/24) and, between hosts, `vxlan0` (or plain routes with `tunnel=None`). A service is a ClusterIP as
kube-proxy makes it: DNAT in the node of the client. `cluster.nat(...)`, `drop(...)` change the rules while it runs.

Assumes root, iproute2, nftables and the kernel's veth, bridge, vxlan, nf_tables; touches nothing outside its namespaces but
/run/netns and /etc/netns (what `ip netns` itself uses) and, where asked for, a cgroup of version 2. What a crashed
program left (its name carries the process id) is removed by the next Cluster. Standard library only. Called by the demo
of Bookinfo and by tests/net (copied by nobody: put this repository on sys.path).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

NETNS = Path("/run/netns")
ETC = Path("/etc/netns")
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
UNDERLAY = ipaddress.IPv4Network("192.168.77.0/24")
PODS = ipaddress.IPv4Network("10.77.0.0/16")
SERVICES = ipaddress.IPv4Network("10.78.0.0/24")
VXLAN_ID = 77
VXLAN_PORT = 4789
MARK = re.compile(r"^zh-([a-z0-9_]+)-(\d+)\.(\d+)-")  # zh-PREFIX-PID.STARTTICKS-NAME


class HostsError(Exception):
    """A command for the namespaces failed; the text holds it and what it said."""


class Endpoint(NamedTuple):
    """Where a service leads."""

    address: str
    port: int


class Service(NamedTuple):
    """A ClusterIP. `snat`: nodes masquerade what they translate, so that the server sees the node's address."""

    name: str
    address: str
    port: int
    endpoints: tuple[Endpoint, ...]
    node_port: int | None
    snat: bool


def command(argv: Sequence[str], text: str | None = None) -> str:
    """Runs a command to its end; HostsError with its words if it fails."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    if done.returncode:
        raise HostsError(f"{' '.join(argv)}: {done.stderr.strip()}" + (f"\nits input:\n{text}" if text else ""))
    return done.stdout


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of /proc/PID/stat); 0 if there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def pids_in(namespace: str) -> list[int]:
    """The processes of a namespace (by inode, so that it works for one that has lost its name, too)."""
    try:
        inode = os.stat(NETNS / namespace).st_ino
    except OSError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(entry / "ns/net").st_ino == inode:
                    found.append(int(entry.name))
    return found


def remove_namespaces(names: Sequence[str]) -> None:
    """Kills what runs in the namespaces, then removes them and their /etc/netns folders. Never raises."""
    deadline = time.monotonic() + 5.0
    while (pids := [pid for name in names for pid in pids_in(name)]) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(ETC / name, ignore_errors=True)


def left_over(folder: Path) -> list[str]:
    """Names in a folder that a program made which has gone without cleaning up."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if (match := MARK.match(name)) and start_ticks(int(match[2])) != int(match[3])]


def remove_left_over() -> list[str]:
    """Removes the namespaces, cgroups and logs of programs that have gone without cleaning up; the namespaces' names."""
    names = left_over(NETNS)
    remove_namespaces(names)
    for mount in CGROUPS:
        for name in left_over(mount):
            with contextlib.suppress(OSError):
                (mount / name).rmdir()
    temporary = Path(tempfile.gettempdir())
    for name in left_over(temporary):
        shutil.rmtree(temporary / name, ignore_errors=True)
    return names


class Node:
    """A network namespace of the cluster: an address, and programs that run in it. `netns`: its name in /run/netns."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        address: str,
        *,
        hosts: Mapping[str, str] | None = None,
        nameserver: str | None = None,
        cgroup: bool = False,
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.address = address
        self.netns = cluster.namespace(name)
        self.cgroup: Path | None = cluster.make_cgroup(name) if cgroup else None
        self.processes: list[subprocess.Popen[bytes]] = []
        self.configure(hosts, nameserver)

    def configure(self, hosts: Mapping[str, str] | None = None, nameserver: str | None = None) -> None:
        """/etc/hosts (name -> address) and /etc/resolv.conf as its programs see them. Holds for programs started later."""
        folder = ETC / self.netns
        if hosts is not None or nameserver is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if hosts is not None:
            lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
            (folder / "hosts").write_text("\n".join(lines) + "\n")
        if nameserver is not None:
            (folder / "resolv.conf").write_text(f"nameserver {nameserver}\noptions timeout:1 attempts:5\n")

    def ip(self, *lines: str) -> None:
        """`ip -batch` inside: one command a line, without the word ip."""
        command(["ip", "-n", self.netns, "-batch", "-"], "\n".join(lines) + "\n")

    def sysctl(self, values: Mapping[str, object]) -> None:
        """Sysctls by their path below /proc/sys/net: {"ipv4/ip_forward": 1}."""
        script = "".join(f"echo {value} >/proc/sys/net/{key}\n" for key, value in values.items())
        command(["ip", "netns", "exec", self.netns, "sh", "-e", "-c", script])

    def nft(self, ruleset: str) -> None:
        """`nft -f -` inside."""
        command(["ip", "netns", "exec", self.netns, "nft", "-f", "-"], ruleset)

    def argv(self, argv: Sequence[str], *, etc: bool = True) -> list[str]:
        """The command line that runs `argv` inside. `etc`: with the namespace's own /etc files and /sys (`ip netns exec`);
        without, only the network is another's (for agents, which need the real /sys)."""
        if etc:
            inside = ["ip", "netns", "exec", self.netns, *argv]
        else:
            inside = ["nsenter", f"--net={NETNS / self.netns}", "--", *argv]
        if self.cgroup is not None:
            inside = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(self.cgroup / "cgroup.procs"), *inside]
        # Sent when the *thread* that started it ends, so that only the main thread may ask for it.
        if threading.current_thread() is threading.main_thread():
            inside = ["setpriv", "--pdeathsig=KILL", "--", *inside]
        return inside

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        etc: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Starts a program inside, in a session of its own; its pid is the program's. Ended with the cluster.
        Its output goes to `cluster.folder/NAME.log` where nothing else is said. `env` is added to the caller's."""
        with (self.cluster.folder / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.argv(argv, etc=etc),
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def output(self, argv: Sequence[str], timeout_s: float = 60.0) -> str:
        """Runs a program inside to its end and returns what it wrote; HostsError if it fails."""
        done = subprocess.run(self.argv(argv), capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise HostsError(f"in {self.name}: {' '.join(argv)}: code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def wait_port(self, port: int, address: str = "127.0.0.1", timeout_s: float = 20.0) -> None:
        """Polls until something inside listens on the TCP port (/proc/net/tcp: nothing is sent); HostsError if nothing does."""
        deadline, wanted = time.monotonic() + timeout_s, re.compile(rf":{port:04X} [0-9A-F]+:0000 0A ")
        while True:
            text = self.output(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
            if wanted.search(text):
                return
            ended = [process.args for process in self.processes if process.poll()]
            if ended or time.monotonic() > deadline:
                log = self.cluster.folder / f"{self.name}.log"
                said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise HostsError(f"{self.name}: nothing listens on port {port} ({ended or 'in time'}): {said}")
            time.sleep(0.02)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends its programs: SIGTERM, then SIGKILL to their groups."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()


class Pod(Node):
    """A namespace with `eth0` on its host's `cni0`. `device`: the name of the host's end of the veth."""

    def __init__(
        self,
        host: Host,
        name: str,
        number: int,
        *,
        hosts: Mapping[str, str] | None = None,
        nameserver: str | None = None,
        cgroup: bool = False,
    ) -> None:
        super().__init__(host.cluster, name, str(host.cidr[number]), hosts=hosts, nameserver=nameserver, cgroup=cgroup)
        self.host = host
        self.device = f"veth{number}"
        host.ip(
            f"link add {self.device} mtu {host.pod_mtu} type veth peer name eth0 mtu {host.pod_mtu} netns {self.netns}",
            # hairpin: a pod that calls its own ClusterIP is answered through the port that it came from
            f"link set {self.device} master cni0 up",
            f"link set {self.device} type bridge_slave hairpin on",
        )
        self.ip(
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {host.cidr[1]}",
        )


class Host(Node):
    """A node: `eth0` on the underlay, `cni0` with its pods, `vxlan0` to the other nodes."""

    def __init__(
        self, cluster: Cluster, name: str, number: int, *, pods: bool = True, hosts: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(cluster, name, str(UNDERLAY[number]), hosts=hosts)
        self.number = number
        self.cidr = list(PODS.subnets(new_prefix=24))[number]
        self.has_pods = pods
        self.pod_mtu = 1450 if cluster.tunnel else 1500
        self.pods: list[Pod] = []
        self.mac = f"02:77:00:00:00:{number:02x}"  # of vxlan0
        cluster.underlay_ip(
            f"link add up{number} type veth peer name eth0 netns {self.netns}", f"link set up{number} master br0 up"
        )
        lines = ["link set lo up", f"addr add {self.address}/{UNDERLAY.prefixlen} dev eth0", "link set eth0 up"]
        if pods:
            lines += [
                "route add default dev eth0",  # an address without a route is refused before it is translated
                "link add cni0 type bridge forward_delay 0",
                f"addr add {self.cidr[1]}/24 dev cni0",
                "link set cni0 up",
            ]
            if cluster.tunnel:
                lines += [
                    f"link add vxlan0 address {self.mac} mtu 1450 type vxlan id {VXLAN_ID} dstport {VXLAN_PORT}"
                    f" local {self.address} dev eth0 nolearning",
                    f"addr add {self.cidr[0]}/32 dev vxlan0",
                    "link set vxlan0 up",
                ]
        self.ip(*lines)
        if pods:
            self.sysctl({"ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0, "bridge/bridge-nf-call-iptables": 1})

    def pod(
        self,
        name: str,
        *,
        hosts: Mapping[str, str] | None = None,
        nameserver: str | None = None,
        cgroup: bool = False,
    ) -> Pod:
        """A new pod with the next address."""
        pod = Pod(self, name, len(self.pods) + 10, hosts=hosts, nameserver=nameserver, cgroup=cgroup)
        self.pods.append(pod)
        self.cluster.refresh(self)
        return pod

    def knows(self, other: Host) -> None:
        """The way to another node's pods: as flannel does it, by the tunnel's MAC address, or a plain route."""
        if self.cluster.tunnel:
            self.ip(
                f"neigh replace {other.cidr[0]} lladdr {other.mac} dev vxlan0 nud permanent",
                f"route replace {other.cidr} via {other.cidr[0]} dev vxlan0 onlink",
            )
            command(["bridge", "-n", self.netns, "fdb", "replace", other.mac, "dev", "vxlan0", "dst", other.address])
        else:
            self.ip(f"route replace {other.cidr} via {other.address}")

    @property
    def namespaces(self) -> list[str]:
        """Names of its own namespace and its pods', for an agent's `--netns`."""
        return [self.netns, *(pod.netns for pod in self.pods)]


class Cluster:
    """Hosts, pods and services that vanish at the end of the `with` block. `tunnel`: "vxlan" or None (plain routes)."""

    def __init__(self, prefix: str = "demo", *, tunnel: str | None = "vxlan") -> None:
        if not re.fullmatch(r"[a-z0-9_]{1,16}", prefix):
            raise HostsError(f"prefix {prefix!r}: give 1 to 16 of a-z, 0-9 and _")
        if tunnel not in (None, "vxlan"):
            raise HostsError(f"tunnel {tunnel!r}: give 'vxlan' or None")
        pid = os.getpid()
        self.mark = f"zh-{prefix}-{pid}.{start_ticks(pid)}-"
        self.tunnel = tunnel
        self.hosts: list[Host] = []
        self.services: dict[str, Service] = {}
        self.folder = Path()  # logs of the programs; while it runs
        self._namespaces: list[str] = []
        self._cgroups: list[Path] = []
        self._drop: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Self:
        remove_left_over()
        self.folder = Path(tempfile.mkdtemp(prefix=self.mark))
        self.folder.chmod(0o755)
        try:
            self._underlay = self.namespace("underlay")
            self.underlay_ip("link set lo up", "link add br0 type bridge forward_delay 0", "link set br0 up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all programs inside and removes everything. Twice does no harm."""
        nodes: list[Node] = [node for host in self.hosts for node in (host, *host.pods)]
        for node in nodes:
            with contextlib.suppress(OSError):
                for process in node.processes:
                    if process.poll() is None:
                        process.terminate()
        for node in nodes:
            node.stop(2.0)
        remove_namespaces(self._namespaces)
        for cgroup in self._cgroups:
            with contextlib.suppress(OSError):
                cgroup.rmdir()
        if self.folder.name:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.hosts, self._namespaces, self._cgroups, self.services = [], [], [], {}

    def namespace(self, name: str) -> str:
        """Makes a network namespace; its name in /run/netns."""
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,40}", name):
            raise HostsError(f"name {name!r}: give letters, digits, _ and .")
        full = self.mark + name
        self._namespaces.append(full)
        command(["ip", "netns", "add", full])
        return full

    def underlay_ip(self, *lines: str) -> None:
        """`ip -batch` in the underlay's namespace."""
        command(["ip", "-n", self._underlay, "-batch", "-"], "\n".join(lines) + "\n")

    def make_cgroup(self, name: str) -> Path:
        """A cgroup of version 2 below the root; removed at the end."""
        for mount in CGROUPS:
            if (mount / "cgroup.controllers").exists():
                folder = mount / f"{self.mark}{name}"
                folder.mkdir(exist_ok=True)
                self._cgroups.append(folder)
                return folder
        raise HostsError("no cgroup of version 2")

    def host(self, name: str, *, pods: bool = True, hosts: Mapping[str, str] | None = None) -> Host:
        """A new node, known to all others. `pods=False`: a machine outside of the cluster on the same underlay."""
        new = Host(self, name, len(self.hosts) + 1, pods=pods, hosts=hosts)
        for old in self.hosts:
            if old.has_pods and pods:
                old.knows(new)
                new.knows(old)
        self.hosts.append(new)
        self.refresh(new)
        return new

    def service(
        self,
        name: str,
        port: int,
        pods: Iterable[Node | Endpoint],
        target_port: int | None = None,
        *,
        node_port: int | None = None,
        snat: bool = False,
        address: str | None = None,
    ) -> str:
        """Makes (or replaces) a service and returns its ClusterIP. `node_port`: reachable on every host's address, too."""
        ends = tuple(
            one if isinstance(one, Endpoint) else Endpoint(one.address, port if target_port is None else target_port)
            for one in pods
        )
        old = self.services.get(name)
        at = address or (old.address if old else str(SERVICES[len(self.services) + 1]))
        self.services[name] = Service(name, at, port, ends, node_port, snat)
        for host in self.hosts:
            self.refresh(host)
        return at

    def drop(self, host: Host, percent: int = 0, match: str = "meta l4proto tcp") -> None:
        """Lets the host lose so many per cent of the packets that `match` (nft) and that it forwards, receives or sends."""
        self._drop[host.netns] = (percent, match)
        self.refresh(host)

    def refresh(self, host: Host) -> None:
        """The node's whole ruleset, replaced in one transaction (connections that are known keep their translation)."""
        if not host.has_pods:
            return
        # destroy needs nft 1.0.7; add and delete works everywhere
        text = ["add table ip zh", "delete table ip zh", "table ip zh {", " chain services {"]
        for service in self.services.values():
            to = self._target(service.endpoints)
            mark = "meta mark set 0x4000 " if service.snat else ""
            text.append(f"  ip daddr {service.address} tcp dport {service.port} {mark}dnat to {to}")
            if service.node_port:
                text.append(f"  fib daddr type local tcp dport {service.node_port} meta mark set 0x4000 dnat to {to}")
        text += [
            " }",
            " chain prerouting {",
            "  type nat hook prerouting priority dstnat",
            "  jump services",
            " }",
            " chain output {",
            "  type nat hook output priority -100",
            "  jump services",
            " }",
            " chain postrouting {",
            "  type nat hook postrouting priority srcnat",
            "  meta mark 0x4000 masquerade",
            # a pod that calls its own service must not see its own address as the peer
            *(f"  ip saddr {pod.address} ip daddr {pod.address} masquerade" for pod in host.pods),
            # pods have no address outside of the cluster
            f'  ip saddr {host.cidr} ip daddr != {PODS} oifname "eth0" masquerade',
            " }",
        ]
        percent, match = self._drop.get(host.netns, (0, ""))
        if percent:
            rule = f"{match} numgen random mod 100 < {percent} drop"
            for hook in ("forward", "input", "output"):
                text += [f" chain drop_{hook} {{", f"  type filter hook {hook} priority 0", f"  {rule}", " }"]
        host.nft("\n".join([*text, "}"]) + "\n")

    @staticmethod
    def _target(ends: Sequence[Endpoint]) -> str:
        if not ends:
            raise HostsError("a service needs an end point")
        if len(ends) == 1:
            return f"{ends[0].address}:{ends[0].port}"
        pairs = ", ".join(f"{number} : {end.address} . {end.port}" for number, end in enumerate(ends))
        return f"numgen random mod {len(ends)} map {{ {pairs} }}"

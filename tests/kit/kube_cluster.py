"""A real Kubernetes of two nodes on this machine: etcd, control plane, nodes n1 and n2 (kube_node.py), cluster DNS.

    with Cluster(images=[tar]) as cluster:
        cluster.apply(Path("web.yaml"))
        cluster.wait("deployment/web", "condition=Available")

etcd, the API server, the controller manager and the scheduler run in the root network namespace at addresses that only
this cluster has (a bridge; 127.30.x.1 for what nobody else is to reach), so that several clusters of different names
can run. Real authentication and authorisation everywhere: RBAC and Node, certificates of the cluster's own authority,
tokens of service accounts, kubelet's port 10250 by the API server's word.
All that is started lies in the cgroups /NAME, the folders FOLDER and /run/NAME and namespaces called NAME-*; `stop`
ends and removes it by these names alone, so it also clears what a killed run has left. The logs stay.
Needs root and tests/e2e/kubernetes/build.sh. Called by tests/e2e (fixture `cluster`) and tests/e2e/kubernetes/run.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import ssl
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import cgroup
import kube_files
import kube_store
from kube_clean import wipe
from kube_daemon import Daemon, KubeError, run
from kube_node import DNS_ADDRESS, DOMAIN, POD_NETWORK, SERVICE_NETWORK, Node, wait_nodes
from kube_pki import Pki

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("ZEROSPAN_KUBERNETES_CACHE") or ROOT / ".cache/kubernetes")
NEEDED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "coredns")
API_PORT = 6443
START_S = 90.0


def default_name(what: str = "t") -> str:
    """Differs between checkouts, so that two of them can run clusters at once; short enough for interface names."""
    return f"zk{what}{zlib.crc32(str(ROOT).encode()) & 0xFFFF:04x}"


class Cluster:
    """See above. `name`: at most 8 letters and digits. `images`: docker archives that both nodes have from the start.
    `folder`: state and logs, .cache/kubernetes/NAME by default."""

    def __init__(
        self, name: str = "", *, images: Sequence[Path] = (), folder: Path | None = None, nodes: int = 2
    ) -> None:
        self.images = [*images]
        self.name = name or default_name()
        if len(self.name) > 8 or not self.name.isalnum():
            raise KubeError(f"the cluster's name {self.name!r} has more than 8 letters and digits")
        self.folder = folder or PROGRAMS / self.name
        self.logs = self.folder / "logs"
        self.kubeconfig = self.folder / "admin.conf"
        """Of an administrator (system:masters)."""
        self.start_s = 0.0  # what start() took
        third = 1 + zlib.crc32(self.name.encode()) % 250
        underlay = f"172.30.{third}"
        self.gateway = f"{underlay}.1"
        self.server = f"https://{self.gateway}:{API_PORT}"
        self.pki = Pki(self.folder / "pki", self.server)
        self.cgroup = cgroup.root() / self.name
        self.nodes = {
            node.name: node
            for node in (
                Node(self.name, i + 1, underlay=underlay, folder=self.folder, logs=self.logs, programs=PROGRAMS)
                for i in range(nodes)
            )
        }
        self._state = Path(f"/run/{self.name}")
        self._own = f"127.30.{third}.1"
        self._etcd_url = f"http://{self._own}:2379"
        self._lock: IO[str] | None = None
        self.etcd = self._daemon("etcd", self._etcd_argv())
        self.api = self._daemon("kube-apiserver", self._api_argv())
        self.controllers = self._daemon("kube-controller-manager", self._controllers_argv())
        self.scheduler = self._daemon("kube-scheduler", self._scheduler_argv())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def n1(self) -> Node:
        return self.nodes["n1"]

    @property
    def n2(self) -> Node:
        return self.nodes["n2"]

    def start(self) -> None:
        """Clears what an earlier run left, starts all of it and returns when the nodes are Ready and names resolve.
        KubeError (nothing left running) with the log to read if not."""
        begin = time.monotonic()
        self._require()
        self._take_lock()
        try:
            wipe(self.name, self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._start()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - begin

    def attach(self) -> bool:
        """Uses the cluster of this name that another process started; False if none answers."""
        return self.kubeconfig.exists() and self._api_missing() is None

    def stop(self) -> None:
        """Ends everything and removes all but the logs. Can be called twice, and for one that another started."""
        for node in self.nodes.values():
            node.kubelet.stop(kill=True)  # first, else it starts again what is ended
        wipe(self.name, self.folder)
        for path in self.folder.glob("*"):
            if path != self.logs:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        Path(f"/run/{self.name}.lock").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kubectl(self, *argv: str | Path, stdin: str | None = None, check: bool = True, timeout_s: float = 120.0) -> str:
        """What kubectl prints, as administrator. KubeError with what it said if it fails (unless `check` is false)."""
        options: list[str | Path] = ["--kubeconfig", self.kubeconfig, "--cache-dir", self.folder / "kubectl-cache"]
        return run([PROGRAMS / "kubectl", *options, *argv], stdin=stdin, check=check, timeout_s=timeout_s)

    def get(self, *argv: str) -> Any:
        """`kubectl get ARGV -o json`, decoded."""
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def apply(self, manifest: str | Path) -> None:
        """Applies YAML text, a file, or a folder's files."""
        if isinstance(manifest, Path):
            self.kubectl("apply", "--filename", manifest)
        else:
            self.kubectl("apply", "--filename", "-", stdin=manifest)

    def wait(self, what: str, condition: str, *, namespace: str = "default", timeout_s: float = 120.0) -> None:
        """`kubectl wait --for=CONDITION WHAT`; on failure KubeError with the pods and the last events."""
        try:
            self.kubectl("wait", what, f"--for={condition}", "--namespace", namespace, f"--timeout={timeout_s:.0f}s",
                         timeout_s=timeout_s + 10)  # fmt: skip
        except KubeError as error:
            raise KubeError(f"{error}\n{self.describe(namespace)}") from None

    def wait_rollout(self, *what: str, namespace: str = "default", timeout_s: float = 120.0) -> None:
        """Until each Deployment, StatefulSet or DaemonSet ("deployment/web") has all its pods ready."""
        end = time.monotonic() + timeout_s
        for one in what:
            left = max(1.0, end - time.monotonic())
            try:
                self.kubectl(
                    "rollout", "status", one, "--namespace", namespace, f"--timeout={left:.0f}s", timeout_s=left + 10
                )
            except KubeError as error:
                raise KubeError(f"{error}\n{self.describe(namespace)}") from None

    def describe(self, namespace: str = "default") -> str:
        """Pods and the latest events of a namespace, for error messages."""
        pods = self.kubectl("get", "pods", "--namespace", namespace, "-o", "wide", check=False)
        events = self.kubectl("get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp", check=False)
        return "\n".join(
            [pods, *events.splitlines()[-25:], f"logs: {self.logs} and kubectl --kubeconfig {self.kubeconfig}"]
        )

    def import_image(self, tar: Path) -> None:
        """Loads a docker archive into the running nodes' containerd, too (25 s a node for half a gigabyte)."""
        _require_image(tar)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.ctr("images", "import", tar), self.nodes.values()))

    def expose(self, port: int) -> str:
        """Makes a TCP server of the root namespace's loopback (a back end of tests/e2e/backends) reachable from pods
        and nodes; returns its HOST:PORT there. Until stop()."""
        rule = f"iifname {self.name} ip daddr {self.gateway} tcp dport {port} dnat to 127.0.0.1:{port}"
        known = run(["nft", "list", "chain", "ip", self.name, "exposed"])
        if rule.removeprefix(f"iifname {self.name} ") not in known:
            run(["nft", f"add rule ip {self.name} exposed {rule}"])
        return f"{self.gateway}:{port}"

    def pod_address(self, selector: str, *, namespace: str = "default") -> str:
        """Address of the first running pod with these labels."""
        found = [pod for pod in self.get("pods", "--namespace", namespace, "--selector", selector)["items"]
                 if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]]  # fmt: skip
        if not found:
            raise KubeError(f"no pod {selector} in {namespace}\n{self.describe(namespace)}")
        return str(found[0]["status"]["podIP"])

    def stop_api(self, *, kill: bool = True) -> None:
        """The API server is away (killed, by default) until start_api; etcd and all else go on."""
        self.api.stop(kill=kill)

    def start_api(self, timeout_s: float = 60.0) -> None:
        self.api.start()
        self.api.wait(self._api_missing, timeout_s)

    def expire_resource_versions(self) -> int:
        """Compacts etcd's history and starts the API server anew: a watch or a page from an older resource version gets
        410 Gone. Returns the revision."""
        self.stop_api(kill=False)
        header = self._etcd("/v3/maintenance/status", {})["header"]
        revision = int(header["revision"])
        self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        self.start_api()
        return revision

    @contextlib.contextmanager
    def without_api(self) -> Iterator[None]:
        """`with cluster.without_api():` the API server is dead."""
        self.stop_api()
        try:
            yield
        finally:
            self.start_api()

    def _start(self) -> None:
        self.logs.mkdir(parents=True)
        self._state.mkdir(parents=True, exist_ok=True)
        (self.cgroup / "control-plane").mkdir(parents=True)
        self._make_pki()
        self._make_network()
        for node in self.nodes.values():
            node.make_files(self.pki)
        images = [*kube_files.system_images(PROGRAMS), *self.images]
        ready = kube_store.store(PROGRAMS / "images", images, cgroup=self.cgroup, state=self._state, logs=self.logs)
        end = time.monotonic() + START_S
        self.etcd.start()
        for node in self.nodes.values():
            kube_store.clone(ready, node.folder / "containerd")
            node.start_containerd()
        self.etcd.wait(self._etcd_missing, 30)
        self.api.start()
        for node in self.nodes.values():
            node.wait_containerd()
        self.api.wait(self._api_missing, 60)
        self.controllers.start()
        self.scheduler.start()
        for node in self.nodes.values():
            node.start_kubelet()
            node.proxy.start()
        self.apply(kube_files.dns_manifest(DNS_ADDRESS, DOMAIN))
        while missing := wait_nodes(list(self.nodes.values()), self._ready_nodes(), end):
            time.sleep(0.2)
        assert not missing
        for node in self.nodes.values():
            pod_cidr = {"spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]}}
            self.kubectl("patch", "node", node.name, "--patch", json.dumps(pod_cidr))
        self.wait_rollout("deployment/coredns", namespace="kube-system", timeout_s=max(5.0, end - time.monotonic()))

    def _ready_nodes(self) -> set[str]:
        found = set()
        for node in self.get("nodes")["items"]:
            conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
            if conditions.get("Ready") == "True":
                found.add(str(node["metadata"]["name"]))
        return found

    def _make_pki(self) -> None:
        pki = self.pki
        pki.make_authority()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
        pki.make(
            "api", "kube-apiserver", addresses=[self.gateway, "10.96.0.1", self._own, "127.0.0.1", *names, "localhost"]
        )
        pki.make("api-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        pki.make("admin", "admin", "system:masters")
        pki.kubeconfig("admin", self.kubeconfig)
        for name in ("kube-controller-manager", "kube-scheduler"):
            pki.make(name, f"system:{name}")
            pki.kubeconfig(name, self.folder / f"{name}.conf")

    def _make_network(self) -> None:
        run(["ip", "link", "add", self.name, "type", "bridge"])
        run(["ip", "address", "add", f"{self.gateway}/24", "dev", self.name])
        run(["ip", "link", "set", self.name, "up"])
        run(["nft", f"add table ip {self.name}"])
        run(["nft", f"add chain ip {self.name} exposed {{ type nat hook prerouting priority dstnat; }}"])
        run(["sysctl", "-qw", f"net.ipv4.conf.{self.name}.route_localnet=1"])
        for node in self.nodes.values():
            others = [other for other in self.nodes.values() if other is not node]
            node.make_network(others, self.name)

    def _require(self) -> None:
        if os.geteuid() != 0:
            raise KubeError("network namespaces and containers need root: run it as root, or with sudo")
        missing = [name for name in NEEDED if not os.access(PROGRAMS / name, os.X_OK)]
        missing += [name for name in ("etcd", "containerd", "ctr", "runc", "nft") if shutil.which(name) is None]
        missing += [] if Path("/usr/lib/cni/ptp").exists() else ["containernetworking-plugins"]
        for image in self.images:
            _require_image(image)
        if missing:
            raise KubeError(f"not here: {', '.join(missing)}; bring them with: tests/e2e/kubernetes/build.sh")

    def _take_lock(self) -> None:
        self._lock = Path(f"/run/{self.name}.lock").open("w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise KubeError(f"another process runs the cluster {self.name}") from None

    def _daemon(self, name: str, argv: list[str]) -> Daemon:
        return Daemon(
            name, argv, log=self.logs / f"{name}.log", state=self._state, cgroup=self.cgroup / "control-plane"
        )

    def _etcd(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._etcd_url + path, data=json.dumps(body).encode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)

    def _etcd_missing(self) -> str | None:
        try:
            self._etcd("/v3/maintenance/status", {})
        except OSError as error:
            return str(error)
        return None

    def _api_missing(self) -> str | None:
        try:
            context = ssl.create_default_context(cafile=str(self.pki.ca))
            context.load_cert_chain(self.pki.cert("admin"), self.pki.key("admin"))
            handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
            with urllib.request.build_opener(*handlers).open(f"{self.server}/readyz", timeout=5):
                return None
        except OSError as error:
            return str(error)

    def _etcd_argv(self) -> list[str]:
        peer = f"http://{self._own}:2380"
        return ["etcd", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={self._etcd_url}",
                f"--advertise-client-urls={self._etcd_url}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]  # fmt: skip

    def _api_argv(self) -> list[str]:
        pki = self.pki
        return [
            f"{PROGRAMS}/kube-apiserver", f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self.gateway}", f"--advertise-address={self.gateway}", f"--secure-port={API_PORT}",
            f"--client-ca-file={pki.ca}", f"--tls-cert-file={pki.cert('api')}",
            f"--tls-private-key-file={pki.key('api')}",
            f"--kubelet-client-certificate={pki.cert('api-kubelet')}", f"--kubelet-client-key={pki.key('api-kubelet')}",
            f"--kubelet-certificate-authority={pki.ca}", "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={pki.key('sa')}", f"--service-account-signing-key-file={pki.key('sa')}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_NETWORK}", "--allow-privileged=true", "--profiling=false",
        ]  # fmt: skip

    def _controllers_argv(self) -> list[str]:
        pki = self.pki
        return [
            f"{PROGRAMS}/kube-controller-manager", f"--kubeconfig={self.folder}/kube-controller-manager.conf",
            f"--service-account-private-key-file={pki.key('sa')}", f"--root-ca-file={pki.ca}",
            f"--cluster-signing-cert-file={pki.ca}", f"--cluster-signing-key-file={pki.key('ca')}",
            "--use-service-account-credentials=true", f"--cluster-cidr={POD_NETWORK}", "--allocate-node-cidrs=false",
            "--leader-elect=false", f"--bind-address={self._own}", "--profiling=false",
        ]  # fmt: skip

    def _scheduler_argv(self) -> list[str]:
        return [f"{PROGRAMS}/kube-scheduler", f"--kubeconfig={self.folder}/kube-scheduler.conf", "--leader-elect=false",
                f"--bind-address={self._own}", "--profiling=false"]  # fmt: skip


def _require_image(tar: Path) -> None:
    if not tar.exists():
        raise KubeError(f"no image {tar}; make it with: tools/image.sh, tests/e2e/kubernetes/images.py")

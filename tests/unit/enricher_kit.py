"""What the tests of the enricher's faces share: a store with some pods, certificates, a mirror of a subscriber."""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zerospan.enricher import keys
from zerospan.enricher.client import Mirror, Security, TagClient
from zerospan.enricher.fanout import ALL_NODES
from zerospan.enricher.security import Rights
from zerospan.enricher.security import Security as Faces
from zerospan.enricher.service import TagService
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Polls until it is true; AssertionError after so long."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return found


def put_pod(store: TagStore, node: str, name: str, ip: str, *, since_ns: int = T0, more: str = "") -> list[bytes]:
    """A pod with an address, a uid and a container, as the Kubernetes source would put them."""
    base = store.make({"k8s.cluster.name": "test", "k8s.node.name": node})
    pod = store.make({"k8s.pod.name": name, "k8s.pod.ip": ip, "service.name": more or name}, base)
    app = store.make({"k8s.container.name": "app"}, pod)
    digest = f"{abs(hash((name, 'container'))) % (1 << 60):064x}"
    uid = f"{abs(hash((name, 'uid'))) % (1 << 60):032x}"
    made = [
        keys.address(ip),
        keys.pod(f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"),
        keys.container(digest),
    ]
    with store.batch():
        for key, tags in zip(made, (pod, pod, app), strict=True):
            store.put(key, tags, layer=Layer.KUBERNETES, since_ns=since_ns, node=node)
    return made


class Follower:
    """A TagClient with its mirror; checks of each update what the protocol promises."""

    def __init__(self, address: str, node: str, security: Security | None = None) -> None:
        self.lock = threading.Lock()
        self.mirror = Mirror()
        self.wanted: set[bytes] = set()
        self.last: dict[bytes, bool] = {}
        self.client = TagClient(address, node, security, self._update, on_connect=self._connect, backoff_s=(0.05, 0.2))

    def _connect(self) -> None:
        with self.lock:
            self.mirror.prune()

    def _update(self, update: Any) -> None:
        with self.lock:
            self.mirror.update(update)
            for key in [k for k, pieces in self.mirror.bindings.items() if not pieces and k not in self.wanted]:
                del self.mirror.bindings[key]

    def want(self, wanted: list[bytes]) -> None:
        with self.lock:
            self.wanted.update(wanted)
        self.client.want(wanted)

    def drop(self, dropped: list[bytes]) -> None:
        with self.lock:
            self.wanted.difference_update(dropped)
        self.client.drop(dropped)

    def find(self, key: bytes) -> dict[str, str] | None:
        with self.lock:
            return self.mirror.find(key)

    def differs(self, store: TagStore) -> str:
        """How the mirror differs from the store, for the keys that it must know; empty: it does not."""
        own = set(store.of_node(self.client.node)) | set(store.of_node(ALL_NODES))
        with self.lock:
            for key in own | self.wanted:
                told = self.mirror.bindings.get(key)
                is_ = [(p.tags.id, p.since_ns, p.until_ns) for p in store.pieces(key)]
                if told is None:
                    return f"{keys.show(key)} was not told"
                if told != is_:
                    return f"{keys.show(key)}: told {told}, is {is_}"
                for piece in store.pieces(key):
                    if self.mirror.tags(piece.tags.id) != piece.tags.tags():
                        return f"{keys.show(key)}: the tags differ"
            return ""

    def __enter__(self) -> "Follower":
        self.client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop()


@contextlib.contextmanager
def serving(
    store: TagStore, listen: list[str] | None = None, security: Faces | None = None, **more: Any
) -> Iterator[TagService]:
    """A running tag service."""
    more.setdefault("in_sync", lambda: True)
    service = TagService(store, listen or ["127.0.0.1:0"], Rights(security or Faces()), **more)
    service.start()
    try:
        yield service
    finally:
        service.stop(0.2)


def tcp(service: TagService) -> str:
    """Its address."""
    return f"127.0.0.1:{next(iter(service.ports.values()))}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port


class Authority:
    """A CA made with openssl, and certificates of it."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.cert, self.key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert,
        )  # fmt: skip

    def issue(self, name: str) -> tuple[str, str]:
        """Certificate and key for localhost, 127.0.0.1 and any client."""
        cert, key, request = (str(self.folder / f"{name}.{end}") for end in ("pem", "key", "csr"))
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", cert,
        )  # fmt: skip
        return cert, key

    def _openssl(self, *args: str) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True)

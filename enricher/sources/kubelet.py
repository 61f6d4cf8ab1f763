"""KubeletSource: a node's own pods from its kubelet, with no API server at all.

Polled, since the kubelet has no watch; and looked at at once when someone meets a container or pod that nobody knows
(`hint`). Deployments' and CronJobs' names follow from the names that Kubernetes gives (sources/kubernetes/owners.py);
Services, nodes' labels and the like only the API server knows: its source fills them in and wins where both speak.
"""

import os
import ssl
import threading
import time
from http.client import HTTPException
from pathlib import Path

import msgspec

from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.sources.kubernetes.book import PodBook
from zerospan.enricher.sources.kubernetes.client import Access, ApiError, Client, TokenFile
from zerospan.enricher.sources.kubernetes.config import Kubelet
from zerospan.enricher.sources.kubernetes.globs import Dropped, count
from zerospan.enricher.sources.kubernetes.model import List, Pod, after
from zerospan.enricher.sources.kubernetes.owners import Owners
from zerospan.enricher.sources.kubernetes.pods import PodReader
from zerospan.enricher.store import TagStore

HINT_S = 0.2  # at most one look in this time, however many hints come
HINTED = (0.0, 0.3, 1.0)  # a container is seen by the kernel before the kubelet tells of it: looks after a hint
BACKOFF_S = 30.0
STOP_S = 1.8


def access(config: Kubelet) -> Access:
    """By the configuration; the address from the environment where it has none. OSError for unreadable files."""
    host = os.environ.get("NODE_IP") or os.environ.get("HOST_IP") or "127.0.0.1"
    url = config.url or f"https://{f'[{host}]' if ':' in host else host}:10250"
    context = None
    if url.startswith("https"):
        ca = config.ca_file if config.ca_file and (not config.insecure or os.path.exists(config.ca_file)) else ""
        context = ssl.create_default_context(cafile=ca or None)
        if config.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.client_cert_file:
            context.load_cert_chain(config.client_cert_file, config.client_key_file or None)
    if config.token_file:
        token = TokenFile(Path(config.token_file))
        return Access(url, context, token.headers, token.renew)
    return Access(url, context)


class KubeletSource:
    """node: the own node's name, "" where it is not known: then as the pods tell it."""

    name = "kubelet"

    def __init__(self, store: TagStore, config: Kubelet, node: str = "", *, access: Access | None = None) -> None:
        self._store = store
        self._config = config
        self._node = node
        self._access = access
        self._client: Client | None = None
        self._decoder = msgspec.json.Decoder(List[Pod])
        self._raw = msgspec.json.Decoder(List[msgspec.Raw])
        self._one = msgspec.json.Decoder(Pod)
        self._lock = threading.Lock()
        self._book = PodBook(store, Layer.KUBELET)
        self._dropped: Dropped = {}
        self._reader = PodReader(config.naming, config.picks, Owners(), self._dropped)
        self._cluster = store.make({"k8s.cluster.name": config.cluster_name, "k8s.cluster.uid": config.cluster_uid})
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._looks: list[float] = []  # due times that hints asked for
        self._thread: threading.Thread | None = None
        self._heard = time.monotonic()
        self._stats = SourceStats()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        client = self._client  # its thread may put another there
        if client is not None:
            client.close()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def hint(self) -> None:
        """Someone has met a container id or a pod uid that is not known: look now, and soon again. Never blocks."""
        now = time.monotonic()
        with self._lock:
            if not self._looks:
                self._looks = [now + wait for wait in HINTED]
            elif self._looks[-1] < now + HINTED[-1] / 2:
                self._looks.append(now + HINTED[-1])
        self._wake.set()

    def stats(self) -> SourceStats:
        with self._lock:
            found = msgspec.structs.replace(self._stats, entities={"pod": len(self._book)}, dropped=dict(self._dropped))
        found.lag_s = time.monotonic() - self._heard
        return found

    def poll(self) -> bool:
        """One look. Returns whether it went well; what fails is counted."""
        try:
            if self._client is None:
                self._client = Client(self._access or access(self._config))
            pods = self._decode(self._client.get("/pods", {}))
        except (OSError, ValueError, HTTPException, ApiError, msgspec.DecodeError) as e:
            if not self._stop.is_set():
                self._failed(e)
            if self._client is not None and (isinstance(e, ssl.SSLError) or getattr(e, "status", 0) == 401):
                self._client.drop()
                self._client = None  # the files of who we are may be others by now
            return False
        with self._lock, self._store.batch():
            self._book.begin()
            now = self._store.now()
            before = self._book.changes
            for pod in pods:
                node = pod.spec.node_name or self._node
                if not node or not pod.metadata.uid:
                    continue
                facts = self._reader.read(pod, now)
                facts.node = node
                base = self._store.make({"k8s.node.name": node}, self._cluster)
                self._book.seen(facts, base, after(pod.metadata.deletion_timestamp))
            self._book.whole()
            self._stats.changes += self._book.changes - before
            self._stats.in_sync = True
            self._heard = time.monotonic()
        return True

    # -- inside

    def _run(self) -> None:
        wait = self._config.poll_s
        looked = 0.0
        while not self._stop.is_set():
            try:
                good = self.poll()
            except Exception as e:  # a source never dies
                self._failed(e)
                good = False
            looked = time.monotonic()
            wait = self._config.poll_s if good else min(wait * 2, max(BACKOFF_S, self._config.poll_s))
            due = looked + wait
            while not self._stop.is_set():
                with self._lock:
                    hinted = self._looks[0] if self._looks else due
                now = time.monotonic()
                at = max(min(due, hinted), looked + HINT_S)
                if now >= at:
                    break
                self._wake.wait(at - now)
                self._wake.clear()
            with self._lock:
                self._looks = [look for look in self._looks if look > time.monotonic()]

    def _decode(self, body: memoryview) -> list[Pod]:
        try:
            return self._decoder.decode(body).items or []
        except msgspec.ValidationError:
            found = []
            for each in self._raw.decode(body).items or ():
                try:
                    found.append(self._one.decode(each))
                except msgspec.ValidationError as e:
                    count(self._dropped, "undecodable")
                    self._failed(e)
            return found

    def _failed(self, e: Exception) -> None:
        with self._lock:
            self._stats.errors += 1
            self._stats.last_error = str(e) or type(e).__name__

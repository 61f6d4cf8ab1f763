"""Names of containers, from the files that their runtimes keep. Called by describe.py and the enricher.

docker: /var/lib/docker/containers/ID/config.v2.json. podman and CRI-O: containers/storage's list of containers, and the
OCI configuration beside it. containerd: the bundle's config.json, whose annotations name pod and container (CRI) or the
container (nerdctl). Each file is written before the container's first process runs; no daemon is asked. The layouts are
the runtimes' own, no standards: what is not there or looks otherwise is left out. An id is 64 hexadecimal digits, so it
leads nowhere else.
"""

import contextlib
import os
import re
import stat
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from zerospan.exporter.process.text import clean

FILE_MAX = 4 << 20  # bytes; docker's are some 10 KiB, OCI configurations 20 KiB, a list of 1,000 containers 1 MiB
CACHE = 4096
ID = re.compile(r"[0-9a-f]{64}")
DOCKER = ("/var/lib/docker",)
BUNDLES = ("/run/containerd/io.containerd.runtime.v2.task",)
STORAGES = ("/var/lib/containers/storage", "/run/containers/storage")
LISTS = ("containers.json", "volatile-containers.json")  # the latter: of containers that go when they end (--rm)
COMPOSE_SERVICE, COMPOSE_PROJECT = "com.docker.compose.service", "com.docker.compose.project"
# Annotations of CRI: containerd's names, CRI-O's (kubelet's labels)
CRI_NAME = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
CRI_POD = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
CRI_NAMESPACE = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
CRI_UID = ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid")
CRI_IMAGE = ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
CRI_KIND = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
NERDCTL_NAME = "nerdctl/name"


class Details(msgspec.Struct, frozen=True):
    """Empty texts: not known. name: outside Kubernetes only."""

    runtime: str
    name: str = ""
    image: str = ""  # as it was asked for: with registry and tag
    service: str = ""  # of compose
    project: str = ""  # of compose
    pod: str = ""  # its name in Kubernetes
    namespace: str = ""
    uid: str = ""
    container: str = ""  # its name in the pod
    sandbox: bool = False  # holds a pod's namespaces, runs nothing of anybody's

    def service_name(self) -> str:
        """What the service is called outside Kubernetes; compose's service stands without project and number."""
        return self.service or self.name


class _DockerConfig(msgspec.Struct):
    Image: str = ""
    Labels: dict[str, str] | None = None


class _Docker(msgspec.Struct):
    Name: str = ""
    Config: _DockerConfig | None = None


class _Stored(msgspec.Struct):
    id: str
    names: list[str] | None = None
    metadata: str = ""


class _Image(msgspec.Struct):
    image: str = msgspec.field(name="image-name", default="")


class _Oci(msgspec.Struct):
    annotations: dict[str, str] | None = None


def host_root(proc: str) -> str:
    """Where the host's files stand: what process 1 sees, or what we see ("") if that is not ours to look at."""
    root = f"{proc}/1/root"
    try:
        os.stat(f"{root}/.")  # access(2) would ask for the real user, without capabilities
    except OSError:
        return ""
    return root


class Containers:
    """root: before all paths ("/host" in a container that has the host there). Further folders of each runtime may be
    given; the usual ones are looked at, too. Thread-safe.
    """

    def __init__(
        self,
        root: str = "",
        *,
        docker: Sequence[str] = (),
        bundles: Sequence[str] = (),
        storages: Sequence[str] = (),
    ) -> None:
        self._docker = [root + path for path in (*docker, *DOCKER)]
        self._bundles = [root + path for path in (*bundles, *BUNDLES)]
        self._storages = [root + path for path in (*storages, *STORAGES)]
        self._known: dict[str, Details] = {}
        self._lock = threading.Lock()  # of _known
        self._lists: dict[str, tuple[tuple[int, int], dict[str, _Stored]]] = {}

    @classmethod
    def of_host(cls, proc: str) -> "Containers":
        """Those of the host whose /proc this is."""
        return cls(host_root(proc))

    def find(self, container: str) -> Details | None:
        """Of an id; None if no runtime's files tell of it (now: what is found is kept, what is not is sought again)."""
        known = self._known.get(container)
        if known is None and ID.fullmatch(container):
            known = self._of_docker(container) or self._of_bundle(container) or self._of_storage(container)
            if known is not None:
                with self._lock:
                    if len(self._known) >= CACHE and container not in self._known:
                        del self._known[next(iter(self._known))]
                    self._known[container] = known
        return known

    def forget(self, container: str) -> None:
        with self._lock:
            self._known.pop(container, None)

    def _of_docker(self, container: str) -> Details | None:
        for folder in self._docker:
            found = _json(f"{folder}/containers/{container}/config.v2.json", _Docker)
            if found is not None:
                config = found.Config or _DockerConfig()
                labels = config.Labels or {}
                pod = _labelled(labels)
                return Details(
                    "docker",
                    name="" if pod.get("pod") else clean(found.Name.lstrip("/")),
                    image=clean(config.Image),
                    service=clean(labels.get(COMPOSE_SERVICE, "")),
                    project=clean(labels.get(COMPOSE_PROJECT, "")),
                    **pod,
                )
        return None

    def _of_bundle(self, container: str) -> Details | None:
        for folder in self._bundles:
            for space in _names(folder):
                found = _json(f"{folder}/{space}/{container}/config.json", _Oci)
                if found is not None:
                    notes = found.annotations or {}
                    pod = _labelled(notes)
                    name = "" if pod.get("pod") else clean(notes.get(NERDCTL_NAME, ""))
                    return Details("containerd", name=name, image=clean(_first(notes, CRI_IMAGE)), **pod)
        return None

    def _of_storage(self, container: str) -> Details | None:
        for storage in self._storages:
            for space in _names(storage):
                if not space.endswith("-containers"):
                    continue
                lists = (self._list(f"{storage}/{space}/{name}") for name in LISTS)
                stored = next((found[container] for found in lists if container in found), None)
                oci = _json(f"{storage}/{space}/{container}/userdata/config.json", _Oci)
                if stored is None and oci is None:
                    continue
                notes = (oci.annotations if oci is not None else None) or {}
                pod = _labelled(notes)
                image, name = _first(notes, CRI_IMAGE), ""
                if stored is not None:
                    with contextlib.suppress(msgspec.DecodeError):
                        image = image or msgspec.json.decode(stored.metadata, type=_Image).image
                    name = stored.names[0] if stored.names else ""
                if pod.get("pod") or (name.startswith("k8s_") and name.count("_") >= 4):
                    return Details("cri-o", image=clean(image), **pod)
                return Details("podman", name=clean(name), image=clean(image))
        return None

    def _list(self, path: str) -> dict[str, _Stored]:
        """containers/storage's list, read again when the file is another."""
        try:
            at = os.stat(path)
        except OSError:
            return {}
        version = (at.st_mtime_ns, at.st_ino)
        known = self._lists.get(path)
        if known is None or known[0] != version:
            found: list[_Stored] = _json(path, list[_Stored]) or []
            known = self._lists[path] = (version, {c.id: c for c in found})
        return known[1]


def image_parts(image: str) -> tuple[str, str]:
    """(name, tag) of "registry:5000/shop/cart:1.4@sha256:..."; a digest is neither, an id alone is no name."""
    image = image.partition("@")[0]
    head, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return ("", "") if not slash and (name == "sha256" or ID.fullmatch(name)) else (head + slash + name, tag)


def _labelled(notes: dict[str, str]) -> dict[str, Any]:
    """Fields of Details that CRI's annotations or labels give."""
    found = {
        "pod": clean(_first(notes, CRI_POD)),
        "namespace": clean(_first(notes, CRI_NAMESPACE)),
        "uid": clean(_first(notes, CRI_UID)),
        "container": clean(_first(notes, CRI_NAME)),
    }
    sandbox = _first(notes, CRI_KIND) == "sandbox" or found["container"] == "POD"
    return {**found, "container": "" if sandbox else found["container"], "sandbox": sandbox}


def _first(notes: dict[str, str], keys: Sequence[str]) -> str:
    return next((notes[key] for key in keys if notes.get(key)), "")


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _json(path: str, kind: Any) -> Any:
    """A file's content; None if there is none, it is no regular file, too large, or means something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        with open(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            content = f.read(FILE_MAX + 1)
        return msgspec.json.decode(content, type=kind) if len(content) <= FILE_MAX else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None

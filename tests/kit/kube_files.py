"""What a test cluster needs from the start: the image of the pods' sandbox, CoreDNS' image and its objects.

The images are made of one static program each, without a registry. Called by kube_cluster.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from kube_daemon import run
from kube_node import PAUSE

DNS_IMAGE = "localhost/zk/coredns:1"
HERE = Path(__file__).resolve().parent
# A pod's first process: reaps what is orphaned, ends when told.
PAUSE_C = """#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void on(int number) {
    if (number != SIGCHLD) _exit(0);
    while (waitpid(-1, 0, WNOHANG) > 0) {}
}
int main(void) {
    signal(SIGINT, on), signal(SIGTERM, on), signal(SIGCHLD, on);
    for (;;) pause();
}
"""


def system_images(cache: Path) -> list[Path]:
    """Archives of the sandbox and CoreDNS; made once."""
    return [_pause(cache / "pause.tar"), _coredns(cache / "coredns", cache / "coredns.tar")]


def dns_manifest(address: str, domain: str) -> str:
    """The objects of CoreDNS, which answers at `address` (kube-system/kube-dns) for `domain`."""
    template = Template((HERE.parent / "e2e/kubernetes/coredns.yaml").read_text())
    return template.substitute(ADDRESS=address, DOMAIN=domain, IMAGE=DNS_IMAGE)


def docker_archive(out: Path, names: Sequence[str], layers: Sequence[Path], config: Mapping[str, object]) -> Path:
    """An image as `ctr images import` takes it: `layers` are tar files (the lowest first), `names` its names with tags,
    `config` the run configuration (Entrypoint, Env, ...). Replaces `out` at once, when it is whole."""
    digests = []
    for layer in layers:
        with layer.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    settings = json.dumps({
        "architecture": "amd64", "os": "linux", "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }).encode()  # fmt: skip
    settings_name = f"{hashlib.sha256(settings).hexdigest()}.json"
    manifest = [{"Config": settings_name, "RepoTags": list(names), "Layers": [f"{one}/layer.tar" for one in digests]}]
    new = out.with_name(f"{out.name}.new")
    with tarfile.open(new, "w") as tar:
        for digest, layer in zip(digests, layers, strict=True):
            tar.add(layer, arcname=f"{digest}/layer.tar")
        for inside, content in ((settings_name, settings), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return new.rename(out)


def layer(out: Path, files: Mapping[str, Path]) -> Path:
    """A layer of an image: a tar with these files and folders at these paths, owned by root."""

    def by_root(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return None if info.name.endswith("__pycache__") else info

    with tarfile.open(out, "w") as tar:
        for inside, path in sorted(files.items()):
            tar.add(path, arcname=inside, filter=by_root)
    return out


def _pause(out: Path) -> Path:
    if not out.exists():
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "pause")
            run(["gcc", "-O2", "-static", "-s", "-x", "c", "-", "-o", program], stdin=PAUSE_C)
            docker_archive(out, [PAUSE], [layer(Path(folder, "tar"), {"pause": program})], {"Entrypoint": ["/pause"]})
    return out


def _coredns(program: Path, out: Path) -> Path:
    if not out.exists() or out.stat().st_mtime < program.stat().st_mtime:
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            files = {"coredns": program}
            docker_archive(out, [DNS_IMAGE], [layer(Path(folder, "tar"), files)], {"Entrypoint": ["/coredns"]})
    return out

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


def docker_archive(out: Path, name: str, files: Mapping[str, Path], entry: Sequence[str]) -> Path:
    """An image of one layer as `ctr images import` takes it. `files`: their paths inside, all executable."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for inside, path in files.items():
            tar.add(path, arcname=inside)
    data = layer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": list(entry)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()  # fmt: skip
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    new = out.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        members = ((f"{digest}/layer.tar", data), (config_name, config), ("manifest.json", json.dumps(manifest).encode()))
        for inside, content in members:
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return new.rename(out)


def _pause(out: Path) -> Path:
    if not out.exists():
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "pause")
            run(["gcc", "-O2", "-static", "-s", "-x", "c", "-", "-o", program], stdin=PAUSE_C)
            docker_archive(out, PAUSE, {"pause": program}, ["/pause"])
    return out


def _coredns(program: Path, out: Path) -> Path:
    if not out.exists() or out.stat().st_mtime < program.stat().st_mtime:
        docker_archive(out, DNS_IMAGE, {"coredns": program}, ["/coredns"])
    return out

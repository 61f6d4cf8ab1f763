"""Images, unpacked once: a folder of containerd's with all of them, which each node gets as hard links.

To import half a gigabyte takes a node 25 s; the links take less than 1 s. What containerd has imported (blobs, layers)
it never changes, only removes; its two data bases, which it does change, are copied. Called by kube_cluster.py.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from kube_daemon import Daemon, run

KEPT = 2  # folders of other images


def store(cache: Path, images: Sequence[Path], *, cgroup: Path, state: Path, logs: Path) -> Path:
    """The folder with exactly these images (docker archives); makes it if it is not there."""
    known = "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in images)
    folder = cache / hashlib.sha256(known.encode()).hexdigest()[:16]
    if folder.exists():
        folder.touch()
        return folder
    new = cache / f"new-{state.name}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    socket = state / "store.sock"
    config = state / "store.toml"
    config.write_text(f"""version = 2
root = "{new}"
state = "{state}/store"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
""")
    argv = ["containerd", "--config", str(config)]
    containerd = Daemon("containerd-store", argv, log=logs / "containerd-store.log", state=state, cgroup=cgroup)
    containerd.start()
    ctr: list[str | Path] = ["ctr", "--address", socket, "--namespace", "k8s.io"]
    try:
        containerd.wait(lambda: None if socket.exists() else f"no {socket}", 30)
        for image in images:
            run([*ctr, "images", "import", image], timeout_s=300)
    finally:
        containerd.stop()
    others = sorted(
        (path for path in cache.iterdir() if not path.name.startswith("new-")), key=lambda p: p.stat().st_mtime
    )
    for old in others[: -KEPT or None]:
        shutil.rmtree(old)
    return new.rename(folder)


def clone(folder: Path, target: Path) -> None:
    """Makes `target` a containerd's root folder with the images of `folder`."""
    run(["cp", "--archive", "--link", folder, target])
    for path in target.rglob("*.db"):
        if path.parent.name.startswith("io.containerd."):
            copy = path.with_suffix(".copy")
            shutil.copy2(path, copy)
            copy.replace(path)

"""A test cluster that stays while one works: `python tests/e2e/kubernetes/run.py up|down|status [IMAGE.tar ...]`.

Called by `make k8s-up` and `make k8s-down`. `up` imports the images named, by default all in .cache/images. End-to-end
tests use this cluster, and leave it, if ZEROSPAN_K8S=keep is in the environment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kit"))

from kube_cluster import PROGRAMS, ROOT, Cluster, default_name  # noqa: E402
from kube_daemon import KubeError  # noqa: E402


def main(command: str, *images: str) -> None:
    cluster = Cluster(default_name("d"))
    if command == "down":
        cluster.stop()
    elif command == "up":
        if not cluster.attach():
            cluster.start()
            print(f"k8s: two nodes Ready in {cluster.start_s:.1f} s")
        for image in [Path(name) for name in images] or sorted((ROOT / ".cache/images").glob("*.image.tar")):
            begin = time.monotonic()
            cluster.import_image(image)
            print(f"k8s: {image.name} on both nodes in {time.monotonic() - begin:.1f} s")
        print(f"export KUBECONFIG={cluster.kubeconfig} PATH={PROGRAMS}:$PATH")
        print(f"logs: {cluster.logs}")
        for node in cluster.nodes.values():
            print(f"{node.name}: nsenter --net=/run/netns/{node.netns}  cgroup {node.cgroup}")
    elif command == "status":
        print(cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide") if cluster.attach() else f"{cluster.name}: down")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["help"]))
    except KubeError as error:
        sys.exit(f"k8s: {error}")

"""A test cluster that stays while one works: `python tests/e2e/kubernetes/run.py up|down|status [IMAGE.tar ...]`.

Called by `make k8s-up` and `make k8s-down`. `up` brings the images named, by default all in .cache/images; a cluster
that is up gets those named anew. End-to-end tests use this cluster, and leave it, if ZEROSPAN_K8S=keep is in the
environment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kit"))

from kube_cluster import PROGRAMS, ROOT, Cluster, default_name
from kube_daemon import KubeError


def main(command: str, *images: str) -> None:
    tars = [Path(name) for name in images] or sorted((ROOT / ".cache/images").glob("*.image.tar"))
    cluster = Cluster(default_name("d"), images=tars)
    if command == "down":
        cluster.stop()
    elif command == "up":
        begin = time.monotonic()
        if not cluster.attach():
            cluster.start()
        elif images:
            for tar in tars:
                cluster.import_image(tar)
        print(f"k8s: two nodes Ready with {len(tars)} images after {time.monotonic() - begin:.1f} s")
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

"""What tags cost the agent: a lookup, the bytes that are copied into each span, memory by address.

`.venv/bin/python tests/bench/tags.py [--rounds N] [--json FILE]`: the table of peers at several sizes, filled
through the follower; addresses in random order, each time at another one. No root. Each figure is the best of several
rounds: whatever else runs can only add. Not a test: figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
sys.path.insert(1, str(Path(__file__).resolve().parent))
from encode import SPAN
from tags_kit import World

from zerospan.enricher import keys
from zerospan.exporter.encode import harness
from zerospan.exporter.process.stamp import stamp
from zerospan.exporter.tags.peer import PeerTags

SIZES = (100, 1000, 10_000, 30_000)
TAGS = {
    "service.name": "cart", "service.namespace": "prod", "k8s.namespace.name": "prod", "k8s.pod.name": "cart-7d9f-x2x",
    "k8s.node.name": "node-7", "k8s.deployment.name": "cart", "zerospan.k8s.workload.kind": "Deployment",
    "zerospan.k8s.workload.name": "cart", "k8s.service.name": "cart", "cloud.region": "eu-central-1",
    "cloud.availability_zone": "eu-central-1b", "host.name": "node-7",
}  # fmt: skip


def lookups(n: int, rounds: int) -> dict[str, float]:
    """Nanoseconds of a lookup among n addresses: of the address alone, and with a port that is looked for first."""
    w = World(cache_bytes=1 << 30)
    ips = [bytes((10, 1, i >> 8, i & 255)) for i in range(n)]
    base = w.store.make({name: value for name, value in TAGS.items() if name != "k8s.pod.name"})
    for i, ip in enumerate(ips):
        tags = w.store.make({"k8s.pod.name": f"cart-7d9f-{i}"}, base)
        w.store.put(keys.address(".".join(map(str, ip))), tags, layer=5, since_ns=1, node="n1")  # type: ignore[arg-type]
    w.client.push()
    while w.table.waits():
        w.step()
    random.Random(1).shuffle(ips)
    repeat = max(1_000_000 // n, 1)
    alone, with_port = (min(w.table.bench(ips, repeat, port, w.at) for _ in range(rounds)) for port in (0, 8080))
    assert alone[1] == with_port[1] == repeat * n, "not all were found"
    return {
        "addresses": n,
        "lookup_ns": round(alone[0], 1),
        "lookup_with_port_ns": round(with_port[0], 1),
        "memory_bytes_per_address": round(w.follower.nbytes() / n),
    }


def encoding(rounds: int) -> dict[str, float]:
    """Nanoseconds of a span without and with the tags of its other end, in turns."""
    who = PeerTags(stamp(TAGS))
    out = {}
    for what in ("traces", "logs", "loki"):
        plain, tagged = [], []
        for _ in range(rounds):
            plain.append(harness.bench(100_000, SPAN, what))
            tagged.append(harness.bench(100_000, SPAN, what, who))
        out |= {f"{what}_ns": round(min(plain), 1), f"{what}_with_peer_ns": round(min(tagged), 1)}
    return out | {"peer_bytes": len(stamp(TAGS).peer[0]) + len(stamp(TAGS).service[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rounds = args.rounds
    text = json.dumps({"lookups": [lookups(n, rounds) for n in SIZES], "encode": encoding(rounds)}, indent=1)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()

"""5,000 agents before one enricher of cluster scope: its memory, its CPU, how soon a change is everywhere.

    python tests/bench/enricher_fanout.py [--subscribers 5000] [--pods 50000] [--seconds 10] [--json FILE]

The enricher is a process of its own with the tag service over TCP on loopback; a second process holds the subscribers,
each a connection of its own (grpc.aio, raw bytes), which also ask for `--wants` remote addresses. A third of the
changes is a pod that came, a third one that ended, a third a Service's address that everyone follows. The latency of a
change is from its put to the moment at which a subscriber has its bytes, both of one clock (one machine).
"""

import argparse
import asyncio
import atexit
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from machine import leave_on_sigterm

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore

SECOND = 1_000_000_000
MARK = "service.version"  # its value is when it was put


def rss_mib() -> float:
    """Of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def cpu_s() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def put_pod(store: TagStore, n: int, node: str, base: Any, since_ns: int) -> None:
    """A pod with 20 tags over its chain: address, uid, container."""
    pod = store.make(
        {
            "k8s.pod.name": f"cart-{n % 500}-{n:x}", "k8s.namespace.name": f"ns{n % 40}",
            "service.name": f"cart-{n % 500}",
            "k8s.deployment.name": f"cart-{n % 500}", "k8s.pod.ip": ip_of(n), "k8s.pod.uid": f"{n:032x}",
            "service.namespace": f"ns{n % 40}", "service.instance.id": f"ns{n % 40}.cart-{n:x}.app",
            MARK: str(since_ns),
        },
        base,
    )  # fmt: skip
    app = store.make({"k8s.container.name": "app", "container.image.name": f"registry/cart-{n % 500}"}, pod)
    with store.batch():
        store.put(keys.address(ip_of(n)), pod, layer=Layer.KUBERNETES, since_ns=since_ns, node=node)
        store.put(keys.POD + n.to_bytes(16, "big"), pod, layer=Layer.KUBERNETES, since_ns=since_ns, node=node)
        store.put(keys.CONTAINER + n.to_bytes(32, "big"), app, layer=Layer.KUBERNETES, since_ns=since_ns, node=node)


def ip_of(n: int) -> str:
    return f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"


def serve(pipe: Connection, args: argparse.Namespace) -> None:
    """The enricher's process: told what to do over the pipe."""
    from zerospan.enricher import run
    from zerospan.enricher.config import load

    run.raise_descriptors()
    empty = rss_mib()
    made = run.build(
        load(None, {}, {"scope": "cluster", "listen.grpc": "127.0.0.1:0", "listen.unix": f"{args.folder}/s"})
    )
    store = made.store
    cluster = store.make({"k8s.cluster.name": "bench", "cloud.provider": "aws", "cloud.region": "eu-central-1"})
    bases = [
        store.make(
            {
                "k8s.node.name": f"n{i}", "host.id": f"i-{i:x}", "host.name": f"n{i}", "host.type": "m6i.large",
                "cloud.availability_zone": f"eu-central-1{'abc'[i % 3]}", "os.type": "linux", "host.arch": "amd64",
            },
            cluster,
        )
        for i in range(args.nodes)
    ]  # fmt: skip
    began = cpu_s()
    for n in range(args.pods):
        put_pod(store, n, f"n{n % args.nodes}", bases[n % args.nodes], time.time_ns())
    services = [keys.address(f"172.16.0.{i}") for i in range(250)]
    for i, key in enumerate(services):
        tags = store.make({"k8s.service.name": f"svc{i}"}, cluster)
        store.put(key, tags, layer=Layer.KUBERNETES, since_ns=time.time_ns(), node="*")
    filled = {"fill_cpu_s": cpu_s() - began, "empty_mib": empty, "store_mib": rss_mib()}
    made.start()
    assert made.service is not None
    pipe.send((next(p for a, p in made.service.ports.items() if a.startswith("127")), filled))
    rng = random.Random(1)
    while (order := pipe.recv()) != "stop":
        if order == "stats":
            pipe.send({"cpu_s": cpu_s(), "rss_mib": rss_mib(), **json.loads(json.dumps(_stats(made)))})
            continue
        kind, rate, seconds = order
        end = time.monotonic() + seconds
        done, begin = 0, time.monotonic()
        while time.monotonic() < end:
            n = rng.randrange(args.pods)
            if kind == "pods":
                put_pod(store, n, f"n{n % args.nodes}", bases[n % args.nodes], time.time_ns())
            else:
                now = time.time_ns()
                tags = store.make({"k8s.service.name": "svc", MARK: str(now)}, cluster)
                store.put(services[n % 250], tags, layer=Layer.KUBERNETES, since_ns=now, node="*")
            done += 1
            time.sleep(max(0.0, begin + done / rate - time.monotonic()))
        pipe.send(done)
    made.stop()


def _stats(made: Any) -> dict[str, Any]:
    stats = made.service.stats()
    return {name: getattr(stats, name) for name in stats.__struct_fields__}


async def follow(port: int, args: argparse.Namespace, pipe: Connection) -> None:
    """The subscribers' process."""
    import grpc.aio  # type: ignore[import-untyped]

    from zerospan.enricher.client import WATCH
    from zerospan.enricher.wire import tags_pb2 as pb

    loop = asyncio.get_running_loop()
    told = [0]
    synced = [0]
    latencies: list[float] = []
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    gate = asyncio.Semaphore(50)
    mark = MARK.encode()

    async def one(i: int) -> None:
        rng = random.Random(i)
        wanted = [keys.address(ip_of(rng.randrange(args.pods))) for _ in range(args.wants)]
        opening = pb.WatchRequest(open=pb.Open(node=f"n{i % args.nodes}"), want=wanted).SerializeToString()
        async with gate:  # as agents that start with their nodes: not all at the same moment
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
            call = channel.stream_stream(WATCH)()
            await call.write(opening)
            first = True
            while first:
                data = await call.read()
                told[0] += 1
                if pb.TagUpdate.FromString(data).in_sync:
                    first = False
                    synced[0] += 1
        while (data := await call.read()) is not grpc.aio.EOF:
            told[0] += 1
            at = data.rfind(mark)
            if at >= 0:
                text = data[at + len(mark) + 2 : at + len(mark) + 21]
                latencies.append(time.time_ns() / 1e9 - int(text) / 1e9)

    tasks = [asyncio.ensure_future(one(i)) for i in range(args.subscribers)]
    while (order := await loop.run_in_executor(None, pipe.recv)) != "stop":
        if order == "wait":
            while synced[0] < args.subscribers:
                failed = [t for t in tasks if t.done()]
                if failed:
                    raise RuntimeError(f"a subscriber ended: {failed[0].exception()}")
                await asyncio.sleep(0.05)
            pipe.send(told[0])
        else:
            found = sorted(latencies)
            latencies.clear()
            pipe.send((told[0], [found[int(len(found) * q)] for q in (0.5, 0.95, 0.99)] if found else [], len(found)))
    os._exit(0)


def subscribers(port: int, args: argparse.Namespace, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(follow(port, args, pipe))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=5000)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=50_000)
    parser.add_argument("--wants", type=int, default=20, help="remote addresses that each asks for")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=100, help="pods changed in a second")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--folder", default=f"/tmp/enricher-fanout-{os.getpid()}")
    args = parser.parse_args()
    leave_on_sigterm()
    os.makedirs(args.folder)
    atexit.register(shutil.rmtree, args.folder, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    enricher = context.Process(target=serve, args=(its, args), daemon=True)
    enricher.start()
    port, found = mine.recv()
    result: dict[str, Any] = {"subscribers": args.subscribers, "nodes": args.nodes, "pods": args.pods, **found}

    def stats() -> dict[str, Any]:
        mine.send("stats")
        answer: dict[str, Any] = mine.recv()
        return answer

    before = stats()
    ours, theirs = context.Pipe()
    clients = context.Process(target=subscribers, args=(port, args, theirs), daemon=True)
    began = time.monotonic()
    clients.start()
    ours.send("wait")
    ours.recv()
    after = stats()
    result |= {
        "connect_s": time.monotonic() - began,
        "connect_cpu_s": after["cpu_s"] - before["cpu_s"],
        "connected_mib": after["rss_mib"],
        "snapshot_bytes": after["bytes"] - before["bytes"],
    }
    before, began = stats(), time.monotonic()
    time.sleep(args.seconds)
    after = stats()
    result["idle_cpu_percent"] = 100 * (after["cpu_s"] - before["cpu_s"]) / (time.monotonic() - began)
    for kind, rate in (("pods", args.rate), ("services", 1.0)):
        ours.send("take")
        ours.recv()
        before, began = stats(), time.monotonic()
        mine.send((kind, rate, args.seconds))
        done = mine.recv()
        time.sleep(2)
        after, seconds = stats(), time.monotonic() - began
        cpu, messages = after["cpu_s"] - before["cpu_s"], after["messages"] - before["messages"]
        ours.send("take")
        _, quantiles, n = ours.recv()
        result[f"{kind}_changed"] = {
            "changes": done, "told": n, "messages": messages,
            "bytes": after["bytes"] - before["bytes"],
            "cpu_percent": 100 * cpu / seconds, "cpu_us_a_message": 1e6 * cpu / max(1, messages),
            "latency_ms_p50_p95_p99": [round(1000 * q, 1) for q in quantiles],
        }  # fmt: skip
    result["end_mib"] = stats()["rss_mib"]
    result["cut"] = stats()["cut"]
    ours.send("stop")
    mine.send("stop")
    enricher.join(15)
    clients.kill()
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()

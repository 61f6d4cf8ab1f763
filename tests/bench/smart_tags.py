"""What is measured in smart_encoding.py: instances of services with tags, their series, spans and log lines, both ways.

`ours`: what the agent sends, made by its own code: job and instance on the series and all tags once in target_info;
tags on the OTLP Resource; few labels of a Loki stream and the rest as the line's metadata. `inline`: the tags as labels
of every series, attributes of every span, labels of the Loki stream. `none`: no tags at all, to subtract.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from encode import SPAN
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from zerospan.enricher.names import TAGS
from zerospan.exporter.encode import harness
from zerospan.exporter.metrics.harness import Feeder
from zerospan.exporter.process import labels
from zerospan.exporter.process.resource import encode_resource
from zerospan.exporter.process.stamp import loki_name

STANDARD = (
    "k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip", "k8s.node.name", "k8s.deployment.name", "k8s.replicaset.name",
    "k8s.service.name", "k8s.container.name", "container.id", "container.image.name", "host.id", "host.name",
    "host.type", "host.image.id", "host.ip", "cloud.account.id", "cloud.region", "cloud.availability_zone",
    "zerospan.cloud.vpc.id", "zerospan.cloud.subnet.id",
)  # fmt: skip
CUSTOM = "k8s.pod.label."
VALUE = 16  # characters
INSTANCES = 5000  # and so many values has each tag
COPIES = 20  # instances of one service
NAMESPACES = 20
WAYS = ("none", "ours", "inline")
ROUTES = ("/", "/cart", "/cart/{id}", "/checkout", "/orders/{id}")
SECOND = 1_000_000_000
FAMILY = "http_server_request_duration_seconds"
LINES = 17  # series of one histogram: its buckets, sum and count
WHO = re.compile(rb'\{(job="[^"]*",instance="[^"]*")')

assert len(STANDARD) == 20 and all(name in TAGS for name in STANDARD)


@dataclass(frozen=True)
class Instance:
    """One copy of a service. `tags` are those that are measured; the rest has everyone."""

    service: str
    namespace: str
    instance: str
    tags: dict[str, str]

    @property
    def attributes(self) -> dict[str, str]:
        identity = {
            "service.name": self.service, "service.namespace": self.namespace, "service.instance.id": self.instance,
            "k8s.cluster.name": "prod-1", "k8s.namespace.name": self.namespace,
        }  # fmt: skip
        return {**identity, **self.tags}


@cache
def value(tag: str, i: int) -> str:
    return base64.b32encode(hashlib.blake2b(f"{tag}/{i}".encode(), digest_size=10).digest()).decode().lower()


def tag_names(custom: int) -> tuple[str, ...]:
    return (*STANDARD, *(f"{CUSTOM}team.example/custom-{k:02d}" for k in range(custom)))


def instances(custom: int, n: int = INSTANCES, *, tagged: bool = True) -> list[Instance]:
    """n instances with the standard tags and so many custom ones."""
    names = tag_names(custom) if tagged else ()
    out = []
    for i in range(n):
        app = i // COPIES
        space = f"team-{app % NAMESPACES:02d}"
        pod = f"{space}.app-{app:03d}-{i % COPIES:05x}.app"
        out.append(Instance(f"app-{app:03d}", space, pod, {name: value(name, i) for name in names}))
    return out


class Metrics:
    """/metrics of an agent that sees these instances: HTTP server series, `routes` of them for each."""

    def __init__(self, way: str, who: list[Instance], routes: int) -> None:
        self.way = way
        self.routes = ROUTES[:routes]
        self.feeder = Feeder(max_series=1 << 22, max_bytes=1 << 34, ttl_s=1e6, max_values=1 << 20, exemplars=False)
        self.processes = []
        self.more: dict[bytes, bytes] = {}  # job and instance -> what each series has beside them
        for one in who:
            series, tags = labels.series(one.service, one.namespace, one.instance), labels.target_info(one.tags)
            made = self.feeder.process(one.service, one.instance, series=series)
            if way == "ours":
                self.feeder.target_info(made, tags)
            elif way == "inline":
                self.more[series] = b"{" + series + b"," + tags
            self.processes.append(made)

    def body(self, turn: int) -> bytes:
        """The text of the next scrape: some more requests were answered."""
        for i, process in enumerate(self.processes):
            for k, route in enumerate(self.routes):
                self.feeder.observe(
                    process, code=200, operation=b"GET", route=route.encode(), version=11,
                    duration_ns=((i * 7 + k * 3 + turn) % 23 + 1) * 3_000_000, times=1 + (i + turn) % 5,
                )  # fmt: skip
        wanted = (FAMILY.encode(), b"target_info{" if self.way == "ours" else FAMILY.encode())
        text = b"\n".join(line for line in self.feeder.render().split(b"\n") if line.startswith(wanted)) + b"\n"
        if not self.more:
            return text
        return WHO.sub(lambda found: self.more[found[1]], text)


def spans(i: int, n: int, at_ns: int) -> list[dict[str, object]]:
    """n requests of instance number i, from a Unix time on, 50 ms apart."""
    out = []
    for k in range(n):
        id_ = hashlib.blake2b(f"{i}/{k}".encode(), digest_size=16).digest()
        end = 10**9 + 41_000 + k * SECOND // 20
        out.append(
            {
                **SPAN, "proc": 1, "trace_id": id_, "span_id": int.from_bytes(id_[:8], "big"), "target": f"/cart/{k}",
                "route": "/cart/{id}", "end_ns": end, "start_ns": end - 30_000 - id_[0] * 1000,
                "first_ns": end - 11_000, "key": int.from_bytes(id_[8:], "big"), "remote_port": 32768 + id_[1],
                "wall_offset": at_ns - 10**9,
            }
        )  # fmt: skip
    return out


def otlp(way: str, i: int, one: Instance, n: int) -> bytes:
    """The body of one request with n spans of an instance."""
    attributes = one.attributes
    if way != "ours":
        attributes = {name: text for name, text in attributes.items() if name not in one.tags}
    body = harness.encode(spans(i, n, 1_763_000_000 * SECOND), [{"resource": encode_resource(attributes)}])["traces"]
    if way != "inline":
        return body
    request = ExportTraceServiceRequest.FromString(body)
    for span in request.resource_spans[0].scope_spans[0].spans:
        for name, text in one.tags.items():
            span.attributes.add(key=name).value.string_value = text
    whole: bytes = request.SerializeToString()
    return whole


def pushes(way: str, who: list[Instance], lines: int, at_ns: int, size: int = 1 << 20) -> Iterator[bytes]:
    """Bodies for Loki's push API, of about `size` bytes: so many lines of each instance."""
    streams: list[bytes] = []
    total = 0
    for i, one in enumerate(who):
        own = {name: text for name, text in one.attributes.items() if way == "ours" or name not in one.tags}
        process = {
            "labels": labels.stream(one.service, {}, own),
            "meta": labels.metadata(own, one.tags if way == "ours" else ()),
        }
        if way == "inline":
            more = {loki_name(name): text for name, text in one.tags.items()}
            process["labels"] += b"," + json.dumps(more, separators=(",", ":"))[1:-1].encode()
        body = harness.encode(spans(i, lines, at_ns), [process])["loki"]
        streams.append(body[len(b'{"streams":[') : -2])
        total += len(body)
        if total >= size or i + 1 == len(who):
            yield b'{"streams":[' + b",".join(streams) + b"]}"
            streams, total = [], 0

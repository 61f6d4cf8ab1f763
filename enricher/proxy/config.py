"""Every setting of the OTLP proxy: the section `proxy` of the enricher's configuration.

Sizes are bytes, keys that end in `_s` seconds. Frozen.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zerospan.exporter.config.model import MIB, Section, Text, Tls
from zerospan.exporter.config.rules import listen_address
from zerospan.exporter.config.secret import Secret, Url

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")
Identity = Literal[
    "container.id",
    "k8s.pod.uid",
    "k8s.pod.ip",
    "k8s.node.name",
    "host.id",
    "host.name",
    "host.ip",
    "network.peer.address",
    "net.sock.peer.addr",
    "net.peer.ip",
    "net.host.ip",
    "client.address",
    "source.address",
    "connection",
]


class ProxyConfig(Section, frozen=True):
    """OTLP for anyone: what comes in gets the tags of whom it speaks of, and goes on to `endpoint`."""

    endpoint: Annotated[
        Url,
        Meta(
            description="Where requests go. http/protobuf: a base URL, /v1/traces, /v1/metrics or /v1/logs is added."
            " grpc: http://HOST:PORT, https://HOST:PORT or HOST:PORT (TLS)."
        ),
    ]
    protocol: Annotated[Literal["http/protobuf", "grpc"], Meta(description="Transport to the endpoint.")] = "grpc"
    listen_grpc: Annotated[
        Text | None, Meta(description="HOST:PORT of OTLP/gRPC, e.g. 0.0.0.0:4317; null: not served.")
    ] = "127.0.0.1:4317"
    listen_http: Annotated[
        Text | None, Meta(description="HOST:PORT of OTLP/HTTP, e.g. 0.0.0.0:4318; null: not served.")
    ] = "127.0.0.1:4318"
    compression: Annotated[Literal["none", "gzip"], Meta(description="Compression towards the endpoint.")] = "none"
    headers: Annotated[
        dict[str, Secret], Meta(description="Headers (gRPC: metadata) of each request to the endpoint. Never shown.")
    ] = {}
    pass_headers: Annotated[
        tuple[Text, ...],
        Meta(description="Headers of the sender that go on to the endpoint, e.g. X-Scope-OrgID. Others do not."),
    ] = ()
    tls: Annotated[Tls, Meta(description="TLS and mTLS towards the endpoint.")] = Tls()
    timeout_s: Annotated[
        float,
        Meta(ge=0.1, le=300, description="Time for one attempt. Keep it below the senders' own (often 10 s)."),
    ] = 8
    retry_max_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="A request is tried again for this long, then its sender is asked to send it later. Keep it"
            " below the senders' own time-out.",
        ),
    ] = 3
    connections: Annotated[
        int, Meta(ge=1, le=1024, description="Requests under way to the endpoint at once (http/protobuf: connections).")
    ] = 32
    queue_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=1 << 34,
            description="Memory for requests that are not answered yet; a sender that finds none is asked to wait.",
        ),
    ] = 64 * MIB
    max_request_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 31, description="Largest request, also once it is decompressed.")
    ] = 16 * MIB
    max_senders: Annotated[int, Meta(ge=1, le=65536, description="HTTP connections, and requests, at once.")] = 1024
    idle_s: Annotated[float, Meta(ge=1, le=3600, description="An HTTP connection without requests is closed.")] = 60
    read_s: Annotated[float, Meta(ge=0.1, le=300, description="Time in which an HTTP request must have come.")] = 10
    associate: Annotated[
        tuple[Identity, ...],
        Meta(
            description="By what a resource is recognised, in this order: its attributes; `connection`: the sender's"
            " own address, for resources that say none of the others. Leave it out behind a gateway."
        ),
    ] = (
        "container.id",
        "k8s.pod.uid",
        "k8s.pod.ip",
        "network.peer.address",
        "net.sock.peer.addr",
        "net.peer.ip",
        "net.host.ip",
        "client.address",
        "source.address",
        "k8s.node.name",
        "host.id",
        "host.name",
        "host.ip",
        "connection",
    )
    overwrite: Annotated[
        bool, Meta(description="Tags replace what the sender says of the same name; false: they only fill in.")
    ] = False
    cache_bytes: Annotated[
        int, Meta(ge=65536, le=1 << 34, description="Memory for resources that were seen before.")
    ] = 16 * MIB


def problems(config: ProxyConfig) -> list[tuple[tuple[str, ...], str]]:
    """What the types cannot say: (path of the key, what is wrong)."""
    wrong: list[tuple[tuple[str, ...], str]] = []
    if config.listen_grpc is None and config.listen_http is None:
        wrong.append((("listen_grpc",), "one of listen_grpc and listen_http must be given"))
    for key in ("listen_grpc", "listen_http"):
        value = getattr(config, key)
        if value is not None:
            try:
                listen_address(value)
            except ValueError as e:
                wrong.append(((key,), str(e)))
    if config.max_request_bytes > config.queue_bytes:
        wrong.append((("max_request_bytes",), "more than queue_bytes"))
    return wrong


def load(values: dict[str, object]) -> ProxyConfig:
    """From plain values, secrets included; for tests. Raises msgspec.ValidationError."""
    from zerospan.exporter.config.shape import decode

    return msgspec.convert(values, ProxyConfig, dec_hook=decode)

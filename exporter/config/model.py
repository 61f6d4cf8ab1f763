"""Every setting of the agent, with its default, its limits and its meaning: the one place that defines a key.

`load.py` fills it, `schema.py` makes the JSON schema and the table in docs/configuration.md from it, and
the stages read it. Sizes are bytes, keys that end in `_s` seconds, in `_ms` milliseconds. Frozen: a running
agent's configuration does not change.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.tags.names import PEER_TAGS

MIB = 1 << 20
MIN_RING_BYTES = 64 << 10

Port = Annotated[int, Meta(ge=1, le=65535)]
Pid = Annotated[int, Meta(ge=1, le=1 << 22)]
Text = Annotated[str, Meta(min_length=1)]
Overflow = Literal["drop_oldest", "drop_newest"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of known keys."""


class Capture(Section, frozen=True):
    """What the kernel side records."""

    hooks: Annotated[
        Literal["auto", "sock_length", "sys_exit", "fexit"],
        Meta(description="Hook family; `auto`: the cheapest that this kernel has (see `zerospan check`)."),
    ] = "auto"
    ring_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Size of the ring buffer that all CPUs share; rounded up to a power of two of pages, at least "
            "64 KiB. From 1 MiB on, each CPU has 256 KiB of its own before it.",
        ),
    ] = 4 * MIB
    payload_bytes: Annotated[int, Meta(ge=64, le=16384, description="Bytes copied of the head of each message.")] = 512
    large_ports: Annotated[
        tuple[Port, ...],
        Meta(description="Ports whose messages are copied up to 16 KiB, e.g. of a database."),
    ] = ()
    drain_ms: Annotated[
        int, Meta(ge=1, le=1000, description="Time between two drains of the ring; while nothing passes, twice that.")
    ] = 4
    nic: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Points at network interfaces: `off`, `on`, or the share of connections that are told of.",
        ),
    ] = 0
    nic_cgroup: Annotated[
        tuple[Text, ...],
        Meta(
            description="Points at network interfaces only where a process of these control groups (as in "
            "`filter.cgroup`) is in the network namespace, looked at each second; empty: all of `filter.netns`."
        ),
    ] = ()
    sweep_ms: Annotated[
        int,
        Meta(ge=10, le=60_000, description="Time between two sweeps for time-outs, holds and dead connections."),
    ] = 500


class Filter(Section, frozen=True):
    """Which traffic is captured, decided in the kernel: any value of a key, every key. Empty: all."""

    pid: Annotated[tuple[Pid, ...], Meta(description="Process ids.")] = ()
    exe: Annotated[tuple[Text, ...], Meta(description="Paths or names of executables.")] = ()
    port: Annotated[tuple[Port, ...], Meta(description="TCP or UDP ports of either end.")] = ()
    cgroup: Annotated[tuple[Text, ...], Meta(description="Paths of cgroups below /sys/fs/cgroup.")] = ()
    netns: Annotated[
        tuple[Text, ...], Meta(description="Network namespaces: a path, a name of `ip netns`, or `self`.")
    ] = ()


class Privacy(Section, frozen=True):
    """What is hidden before anything leaves the process."""

    mask: Annotated[
        bool,
        Meta(description="Replace literals (query values, SQL literals, Redis values, credentials) by `?`."),
    ] = True


class Assemble(Section, frozen=True):
    """Limits of pairing requests with responses."""

    timeout_s: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="A request without an answer becomes an error span after this time."),
    ] = 60
    max_connections: Annotated[int, Meta(ge=1, le=1 << 24, description="Connections followed at once.")] = 131072
    max_open_bytes: Annotated[int, Meta(ge=65536, le=1 << 34, description="Memory for unanswered requests.")] = 32 * MIB
    route_limit: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Routes a service; further ones are counted as one `http.route`."),
    ] = 200


class Link(Section, frozen=True):
    """How long spans wait for their trace, and limits of sharing links with other hosts (`links`)."""

    hold_s: Annotated[float, Meta(ge=0, le=60, description="Least time that a finished span waits for its chain.")] = 2
    max_hold_s: Annotated[
        float,
        Meta(ge=0, le=300, description="Longest wait; Tempo ignores spans older than 30 s in its metrics."),
    ] = 30
    hold_bytes: Annotated[int, Meta(ge=65536, le=1 << 34, description="Memory for spans on hold.")] = 36 * MIB
    registry_bytes: Annotated[int, Meta(ge=65536, le=1 << 34, description="Memory for the registry of causes.")] = (
        48 * MIB
    )
    honour_sampling: Annotated[
        bool,
        Meta(
            description="Export no spans of requests whose trace context says that the trace is not recorded; metrics"
            " and logs count them all the same."
        ),
    ] = True
    sdk_client_spans: Annotated[
        Literal["child", "omit"],
        Meta(
            description="A call for which an SDK makes a CLIENT span itself: `child`: our CLIENT span stands below it;"
            " `omit`: our SERVER span does, and our CLIENT span is not exported (metrics count it)."
        ),
    ] = "child"
    shared_ttl_s: Annotated[
        float,
        Meta(
            ge=5,
            le=3600,
            description="How long the store of `links` keeps what is known of a request; renewed while it runs.",
        ),
    ] = 60
    shared_timeout_s: Annotated[
        float, Meta(ge=0.05, le=30, description="Time for one round with the store; no span waits for it.")
    ] = 1
    shared_queue_bytes: Annotated[
        int, Meta(ge=65536, le=1 << 30, description="Memory for what waits for the store.")
    ] = 8 * MIB
    shared_bytes: Annotated[
        int, Meta(ge=65536, le=1 << 34, description="Memory for requests whose other end is on another host.")
    ] = 16 * MIB


class ServiceMatch(Section, frozen=True):
    """What a process must look like; all keys that are given must match (globs: * ? [a-z])."""

    exe: Annotated[Text | None, Meta(description="Glob for the path of the executable.")] = None
    cmdline: Annotated[Text | None, Meta(description="Glob for the command line, arguments joined by spaces.")] = None


class ServiceRule(Section, frozen=True):
    """A name for the processes that match."""

    match: Annotated[ServiceMatch, Meta(description="What the process must look like.")]
    name: Annotated[Text, Meta(max_length=255, description="`service.name` of such a process.")]


class Service(Section, frozen=True):
    """How services are named."""

    rules: Annotated[
        tuple[ServiceRule, ...],
        Meta(description="First match wins; without one the name comes from the process itself."),
    ] = ()
    order: Annotated[
        tuple[Literal["env", "kubernetes", "systemd", "container", "executable"], ...],
        Meta(
            description="Who names a service, the first that can: `env` (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES),"
            " `kubernetes` (the enricher's tags), `systemd` (unit), `container` (name outside Kubernetes),"
            " `executable` (with its script, module or jar)."
        ),
    ] = ("env", "kubernetes", "systemd", "container", "executable")


class Metrics(Section, frozen=True):
    """The /metrics endpoint for Prometheus."""

    listen: Annotated[
        str | None,
        Meta(description="HOST:PORT of /metrics, e.g. 127.0.0.1:9464 or [::1]:9464; null: no endpoint."),
    ] = None
    series_limit: Annotated[int, Meta(ge=100, le=10_000_000, description="Series kept; further ones are counted.")] = (
        200_000
    )
    series_ttl_s: Annotated[
        float, Meta(ge=1, le=86_400, description="A series that did not change for this long is forgotten.")
    ] = 300
    exemplars: Annotated[bool, Meta(description="Attach trace ids to OpenMetrics histograms.")] = True


class Tls(Section, frozen=True):
    """TLS towards a receiver. Files are PEM and are read once, at start."""

    ca: Annotated[Text | None, Meta(description="File of CA certificates; null: those of the system.")] = None
    cert: Annotated[Text | None, Meta(description="File of the client certificate (mTLS).")] = None
    key: Annotated[Text | None, Meta(description="File of the client's private key (mTLS).")] = None
    insecure: Annotated[
        bool,
        Meta(description="OTLP/gRPC only: an endpoint without http:// or https:// is reached without TLS."),
    ] = False
    insecure_skip_verify: Annotated[
        bool,
        Meta(description="OTLP/HTTP and Loki only: do not check the receiver's certificate. For trials."),
    ] = False


class OtlpSignal(Section, frozen=True):
    """An OTLP receiver of one signal."""

    endpoint: Annotated[
        Url,
        Meta(
            description="URL. http/protobuf: used as it is; without any path (http://127.0.0.1:4318)"
            " /v1/traces or /v1/logs is added. grpc: http://HOST:PORT, https://HOST:PORT or HOST:PORT (TLS)."
        ),
    ]
    protocol: Annotated[Literal["http/protobuf", "grpc"], Meta(description="Transport.")] = "http/protobuf"
    compression: Annotated[Literal["none", "gzip"], Meta(description="Compression of the body.")] = "none"
    headers: Annotated[
        dict[str, Secret], Meta(description="Headers (gRPC: metadata) of each request. Never shown.")
    ] = {}
    timeout_s: Annotated[float, Meta(ge=0.1, le=300, description="Time for one request, connection included.")] = 10
    tls: Annotated[Tls, Meta(description="TLS and mTLS.")] = Tls()


class Otlp(Section, frozen=True):
    """OpenTelemetry receivers (a Collector, Tempo, ...); null: none."""

    traces: Annotated[OtlpSignal | None, Meta(description="Receiver of spans; null: none.")] = None
    logs: Annotated[OtlpSignal | None, Meta(description="Receiver of request logs; null: none.")] = None
    queue_bytes: Annotated[int, Meta(ge=65536, le=1 << 34, description="Queue of each signal.")] = 32 * MIB
    retry_max_s: Annotated[
        float,
        Meta(ge=0, le=86_400, description="A batch is given up after this time of retries; 0: no retry."),
    ] = 300
    overflow: Annotated[Overflow, Meta(description="What goes when the queue is full.")] = "drop_oldest"


class Loki(Section, frozen=True):
    """Loki's push API."""

    url: Annotated[Url, Meta(description="URL of Loki; /loki/api/v1/push is added unless it is there.")]
    tenant: Annotated[Text | None, Meta(description="X-Scope-OrgID.")] = None
    headers: Annotated[dict[str, Secret], Meta(description="Further headers, e.g. Authorization. Never shown.")] = {}
    labels: Annotated[dict[str, str], Meta(description="Stream labels added to each stream; keep them few.")] = {}
    timeout_s: Annotated[float, Meta(ge=0.1, le=300, description="Time for one request, connection included.")] = 10
    tls: Annotated[Tls, Meta(description="TLS and mTLS.")] = Tls()
    queue_bytes: Annotated[int, Meta(ge=65536, le=1 << 34, description="Queue.")] = 32 * MIB
    retry_max_s: Annotated[
        float,
        Meta(ge=0, le=86_400, description="A batch is given up after this time of retries; 0: no retry."),
    ] = 300
    overflow: Annotated[Overflow, Meta(description="What goes when the queue is full.")] = "drop_oldest"


class Files(Section, frozen=True):
    """Files of OTLP JSON lines, a line a batch, as the Collector's file exporter writes; `-`: stdout."""

    traces: Annotated[Text | None, Meta(description="File of spans; null: none.")] = None
    logs: Annotated[Text | None, Meta(description="File of request logs; null: none.")] = None
    rotate_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="A file that would grow beyond this is renamed to FILE.1 (0: never).",
        ),
    ] = 0
    rotate_keep: Annotated[int, Meta(ge=1, le=1000, description="Renamed files kept; the oldest is deleted.")] = 5


class Console(Section, frozen=True):
    """Output for a person."""

    tree: Annotated[bool, Meta(description="Print each finished trace as a tree.")] = False


class EnricherTls(Section, frozen=True):
    """TLS towards the enricher. Files are PEM and are read again at each connection."""

    enabled: Annotated[bool, Meta(description="Use TLS; also where `ca` or `cert` is given.")] = False
    ca: Annotated[Text | None, Meta(description="File of CA certificates; null: those of the system.")] = None
    cert: Annotated[Text | None, Meta(description="File of the agent's certificate (mTLS).")] = None
    key: Annotated[Text | None, Meta(description="File of the agent's private key (mTLS).")] = None
    server_name: Annotated[
        Text | None, Meta(description="Name in the enricher's certificate, where it is not that of the address.")
    ] = None


class Enricher(Section, frozen=True):
    """The tag service that says what containers, pods and addresses are (`zerospan enricher run`)."""

    address: Annotated[
        Text,
        Meta(
            description="`unix:///run/zerospan/enricher.sock` or HOST:PORT; `off`: no tags. Needs `zerospan[grpc]`.",
        ),
    ] = "off"
    node: Annotated[
        Text | None,
        Meta(description="This node's name, as Kubernetes has it; null: $NODE_NAME, else the host's name."),
    ] = None
    token: Annotated[Secret | None, Meta(description="Bearer token. Never shown.")] = None
    token_file: Annotated[
        Text | None, Meta(description="File that holds it, read again at each connection; goes before `token`.")
    ] = None
    tls: Annotated[EnricherTls, Meta(description="TLS and mTLS.")] = EnricherTls()
    peer_tags: Annotated[
        tuple[Text, ...],
        Meta(description="Tags of the other end that spans and logs carry, as `zerospan.peer.<tag>`."),
    ] = PEER_TAGS
    cache_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 34,
            description="Memory for what the enricher has told; addresses that were not used for longest leave first.",
        ),
    ] = 32 * MIB
    unused_s: Annotated[
        float, Meta(ge=10, le=86_400, description="An address that nobody spoke with for this long is forgotten.")
    ] = 600


class Resource(Section, frozen=True):
    """What is said of everything this agent sends."""

    attributes: Annotated[
        dict[str, str],
        Meta(description="Resource attributes added to all, e.g. deployment.environment.name."),
    ] = {}


class Log(Section, frozen=True):
    """The agent's own messages (standard error)."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level shown.")] = "info"


class Config(Section, frozen=True):
    """The whole configuration."""

    capture: Annotated[Capture, Meta(description="What the kernel side records.")] = Capture()
    filter: Annotated[Filter, Meta(description="Which traffic is captured; empty: all.")] = Filter()
    privacy: Annotated[Privacy, Meta(description="What is hidden before anything leaves the process.")] = Privacy()
    assemble: Annotated[Assemble, Meta(description="Limits of pairing requests with responses.")] = Assemble()
    link: Annotated[
        Link, Meta(description="How long spans wait for their trace, and limits of sharing links with other hosts.")
    ] = Link()
    links: Annotated[
        Url,
        Meta(
            description="Where agents of several hosts share what links their spans: Redis or Valkey as redis://HOST:PORT/DB,"
            " rediss:// (TLS), redis+cluster://HOST,HOST, redis+sentinel://HOST,HOST/MASTER; `memory`: this host alone."
        ),
    ] = msgspec.field(default_factory=lambda: Url("memory"))
    service: Annotated[Service, Meta(description="How services are named.")] = Service()
    metrics: Annotated[Metrics, Meta(description="The /metrics endpoint for Prometheus.")] = Metrics()
    otlp: Annotated[Otlp, Meta(description="OpenTelemetry receivers.")] = Otlp()
    loki: Annotated[Loki | None, Meta(description="Loki's push API; null: none.")] = None
    files: Annotated[Files, Meta(description="Files of OTLP JSON lines.")] = Files()
    console: Annotated[Console, Meta(description="Output for a person.")] = Console()
    enricher: Annotated[
        Enricher, Meta(description="The tag service that says what containers, pods and addresses are.")
    ] = Enricher()
    resource: Annotated[Resource, Meta(description="What is said of everything this agent sends.")] = Resource()
    run_dir: Annotated[Text, Meta(description="Folder of the control socket.")] = "/run/zerospan"
    selftest: Annotated[bool, Meta(description="Send one synthetic request through the hooks at start.")] = True
    log: Annotated[Log, Meta(description="The agent's own messages.")] = Log()


def ring_size(ring_bytes: int, page_size: int = 4096) -> int:
    """`capture.ring_bytes` (bytes) as the kernel wants it: a power of two and a multiple of the page."""
    wanted = max(ring_bytes, MIN_RING_BYTES, page_size)
    return 1 << (wanted - 1).bit_length()

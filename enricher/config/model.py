"""Every setting of the enricher, with its default, its limits and its meaning.

The sources' own settings stand beside them (sources/registry.py), the proxy's in proxy/config.py, rights in
security.py; here they are put together. Sizes are bytes, keys that end in `_s` seconds.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zerospan.enricher.proxy.config import ProxyConfig
from zerospan.enricher.security import Security
from zerospan.enricher.sources import registry
from zerospan.exporter.config.model import MIB, Log, Section, Text
from zerospan.exporter.config.secret import Secret

if TYPE_CHECKING:

    class Sources(Section, frozen=True):
        """Who learns facts."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Sources = msgspec.defstruct(
        "Sources",
        [
            (name, Annotated[kind, Meta(description=registry.SOURCES[name].text)], msgspec.field(default_factory=kind))
            for name, kind in registry.settings().items()
        ],
        bases=(Section,),
        namespace={"__doc__": "Who learns facts."},
        frozen=True,
    )


class Cluster(Section, frozen=True):
    """The cluster, where its own sources do not tell."""

    name: Annotated[
        str, Meta(description="`k8s.cluster.name`; also for sources with a `cluster_name` that is empty.")
    ] = ""
    uid: Annotated[str, Meta(description="`k8s.cluster.uid`; also for sources with a `cluster_uid` that is empty.")] = (
        ""
    )


class Listen(Section, frozen=True):
    """Where the faces listen."""

    grpc: Annotated[
        Text | None, Meta(description="HOST:PORT of the tag service, e.g. 0.0.0.0:4319; null: not over TCP.")
    ] = None
    unix: Annotated[
        Text | None,
        Meta(description="Path of the tag service's Unix socket, for the agent beside it and `lookup`; null: none."),
    ] = "/run/zerospan/enricher.sock"
    http: Annotated[
        Text | None,
        Meta(description="HOST:PORT of /metrics, /lookup, /healthz and /readyz, e.g. 127.0.0.1:9465; null: none."),
    ] = None


class Limits(Section, frozen=True):
    """Bounds of what is known and told."""

    max_keys: Annotated[
        int,
        Meta(ge=1000, le=1 << 26, description="Keys known at once; beyond, those leave that ended the longest ago."),
    ] = 1 << 20
    keep_s: Annotated[
        float, Meta(ge=0, le=86400, description="For how long what has ended is known: late spans ask for it.")
    ] = 600
    max_wants: Annotated[int, Meta(ge=1, le=1 << 24, description="Keys that one subscriber may ask for.")] = 65536
    stream_bytes: Annotated[
        int,
        Meta(ge=65536, le=1 << 34, description="What may wait for one subscriber; then it is cut and resumes."),
    ] = 16 * MIB
    stall_s: Annotated[
        float, Meta(ge=1, le=3600, description="A subscriber that does not take a message for so long is cut.")
    ] = 30
    target_info: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="Series of target_info on /metrics at most; further ones are counted."),
    ] = 10000
    http_connections: Annotated[int, Meta(ge=1, le=65536, description="HTTP connections at once.")] = 64
    stop_s: Annotated[float, Meta(ge=0, le=300, description="Time for stopping.")] = 10


class Upstream(Section, frozen=True):
    """An enricher of cluster scope that is asked for what this node's sources do not know."""

    address: Annotated[Text, Meta(description="HOST:PORT or unix:/PATH of its tag service.")]
    tls: Annotated[bool, Meta(description="TLS; also where `ca` or `cert` is given.")] = False
    ca: Annotated[str, Meta(description="File of CA certificates; empty: those of the system.")] = ""
    cert: Annotated[str, Meta(description="File of the client certificate (mTLS).")] = ""
    key: Annotated[str, Meta(description="File of the client's private key (mTLS).")] = ""
    server_name: Annotated[str, Meta(description="Name in its certificate where it is not that of the address.")] = ""
    token: Annotated[Secret | None, Meta(description="Bearer token; null: none, or in `token_file`.")] = None
    token_file: Annotated[str, Meta(description="File that holds the bearer token; read at each connection.")] = ""
    max_keys: Annotated[
        int, Meta(ge=1, le=1 << 20, description="Keys that it is asked for at once, for this node's agents.")
    ] = 65536


class Config(Section, frozen=True):
    """The whole configuration."""

    scope: Annotated[
        Literal["node", "cluster"],
        Meta(description="`node`: beside the agent, for one node. `cluster`: a few replicas for all nodes' enrichers."),
    ] = "node"
    node: Annotated[
        str, Meta(description="This node's name as Kubernetes has it. Empty: `NODE_NAME`, else the host's name.")
    ] = ""
    cluster: Annotated[Cluster, Meta(description="The cluster, where its own sources do not tell.")] = Cluster()
    listen: Annotated[Listen, Meta(description="Where the faces listen.")] = Listen()
    security: Annotated[Security, Meta(description="Rights on every TCP face.")] = Security()
    sources: Annotated[Sources, Meta(description="Who learns facts.")] = Sources()
    proxy: Annotated[ProxyConfig | None, Meta(description="OTLP proxy; null: none.")] = None
    upstream: Annotated[
        Upstream | None, Meta(description="Enricher of cluster scope to follow (scope `node`); null: none.")
    ] = None
    limits: Annotated[Limits, Meta(description="Bounds of what is known and told.")] = Limits()
    log: Annotated[Log, Meta(description="The enricher's own messages.")] = Log()

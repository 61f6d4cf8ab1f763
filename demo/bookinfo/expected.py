"""The table of the spans that one request to Bookinfo makes: name, service, kind, parent. Data only; read by judge.py.

Whoever changes a call in `services/` or a hop in cluster.py changes it here. One `Hop` is one request on the wire,
with the CLIENT span of who sent it and, below that, the SERVER span of who read it; `cause` is the hop that the
sender was serving. Each network interface on the way of a hop has a span, too (NICS): INTERNAL, below the CLIENT span.
The way follows from the topology (demo/hosts.py):

    from outside: client's eth0 > node's eth0 (then DNAT, SNAT) > veth > eth0
    same node: eth0 > veth > veth > eth0
    other node: eth0 > veth > vxlan0 > node's eth0 (in VXLAN) > node's eth0 (in VXLAN) > vxlan0 > veth > eth0

Calls inside a pod (a program and its side-car, by `lo`) have none, nor have look-ups: points are of TCP. The underlay's
bridge is no host of the agent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

INTERNAL, SERVER, CLIENT = 1, 2, 3  # opentelemetry.proto.trace.v1.Span.SpanKind
KINDS = {INTERNAL: "INTERNAL", SERVER: "SERVER", CLIENT: "CLIENT"}
PAGE, DETAILS, REVIEWS, RATINGS = (
    "GET /r/{id}/productpage", "GET /r/{id}/details/{id}", "GET /r/{id}/reviews/{id}", "GET /r/{id}/ratings/{id}",
)  # fmt: skip
NETWORK = "zerospan-network"  # the service of all interfaces
VISITOR = "curl"  # stands for whatever client there is
NONE: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """One span. `id` and `parent` are names within this table ("" for the root); `attributes`: values that it must
    have."""

    id: str
    parent: str
    kind: int
    service: str
    name: str
    attributes: Mapping[str, str] = NONE

    def __str__(self) -> str:
        more = "" if self.kind == INTERNAL else "".join(f" {value}" for value in self.attributes.values())
        return f"{self.service} {KINDS[self.kind]} {self.name!r}{more} [{self.id}]"


class Hop(NamedTuple):
    """One request on the wire; `question`: what a look-up asks for."""

    id: str
    cause: str
    client: str
    server: str
    name: str
    question: str = ""


HOPS = (
    Hop("edge", "", VISITOR, "ingress-envoy", PAGE),
    Hop("page", "edge", "ingress-envoy", "productpage-envoy", PAGE),
    Hop("page.app", "page", "productpage-envoy", "productpage", PAGE),
    Hop("details.dns", "page.app", "productpage", "dnsmasq", "DNS A", "details.bookinfo"),
    Hop("details.dns6", "page.app", "productpage", "dnsmasq", "DNS AAAA", "details.bookinfo"),
    Hop("details.out", "page.app", "productpage", "productpage-envoy", DETAILS),
    Hop("details", "details.out", "productpage-envoy", "details-envoy", DETAILS),
    Hop("details.app", "details", "details-envoy", "details", DETAILS),
    Hop("reviews.dns", "page.app", "productpage", "dnsmasq", "DNS A", "reviews.bookinfo"),
    Hop("reviews.dns6", "page.app", "productpage", "dnsmasq", "DNS AAAA", "reviews.bookinfo"),
    Hop("reviews.out", "page.app", "productpage", "productpage-envoy", REVIEWS),
    Hop("reviews", "reviews.out", "productpage-envoy", "reviews-envoy", REVIEWS),
    Hop("reviews.app", "reviews", "reviews-envoy", "reviews", REVIEWS),
    Hop("ratings.dns", "reviews.app", "reviews", "dnsmasq", "DNS A", "ratings.bookinfo"),
    Hop("ratings.dns6", "reviews.app", "reviews", "dnsmasq", "DNS AAAA", "ratings.bookinfo"),
    Hop("ratings.out", "reviews.app", "reviews", "reviews-envoy", RATINGS),
    Hop("ratings", "ratings.out", "reviews-envoy", "ratings-envoy", RATINGS),
    Hop("ratings.app", "ratings", "ratings-envoy", "ratings", RATINGS),
)


def _rows(hop: Hop) -> tuple[Row, Row]:
    asked = {"dns.question.name": hop.question} if hop.question else NONE
    cause = f"{hop.cause} server" if hop.cause else ""
    return (
        Row(f"{hop.id} client", cause, CLIENT, hop.client, hop.name, asked),
        Row(f"{hop.id} server", f"{hop.id} client", SERVER, hop.server, hop.name, asked),
    )


PROCESSES: tuple[Row, ...] = tuple(row for hop in HOPS for row in _rows(hop))  # parents first


class Pod(NamedTuple):
    """Where it is, as demo/hosts.py numbers them in the order of cluster.PLACES. `device`: the node's end of its
    veth."""

    node: str
    device: str
    address: str


class Flow(NamedTuple):
    """A connection's addresses as packets have them at a point."""

    source: str
    destination: str
    port: int


POD = {
    "ingress": Pod("one", "veth10", "10.77.1.10"),
    "productpage": Pod("one", "veth11", "10.77.1.11"),
    "ratings": Pod("one", "veth12", "10.77.1.12"),
    "details": Pod("two", "veth11", "10.77.2.11"),
    "reviews": Pod("two", "veth12", "10.77.2.12"),
}
NODE = {"one": "192.168.77.1", "two": "192.168.77.2", "client": "192.168.77.3"}
BEFORE_NAT = Flow(NODE["client"], NODE["one"], 30080)  # the NodePort
BEHIND_NAT = Flow("10.77.1.1", POD["ingress"].address, 8080)  # masqueraded as node one's cni0
VXLAN = "vxlan"
VXLAN_ID = 77


def _point(hop: str, point: str, netns: str, interface: str, flow: Flow, outer: tuple[str, str] | None = None) -> Row:
    """`netns`: as demo.hosts names it, without the mark of the run. `outer`: nodes that VXLAN goes between here."""
    ends = (NODE[outer[0]], NODE[outer[1]]) if outer else ("", "")
    attributes = {
        "zerospan.point": point,
        "zerospan.netns": netns,
        "network.interface.name": interface,
        "network.transport": "tcp",
        "source.address": flow.source,
        "destination.address": flow.destination,
        "destination.port": str(flow.port),
        "zerospan.tunnel.type": VXLAN if outer else "",
        "zerospan.tunnel.id": str(VXLAN_ID) if outer else "",
        "zerospan.tunnel.source.address": ends[0],
        "zerospan.tunnel.destination.address": ends[1],
    }
    name = f"{point} {interface}"
    return Row(f"{hop} {point} {netns}/{interface}", f"{hop} client", INTERNAL, NETWORK, name, attributes)


def _between(hop: str, client: str, server: str) -> tuple[Row, ...]:
    """The points of a hop from pod to pod."""
    a, b = POD[client], POD[server]
    flow, across = Flow(a.address, b.address, 9080), (a.node, b.node)
    tunnel = (
        _point(hop, "client.node", a.node, "vxlan0", flow),
        _point(hop, "client.node", a.node, "eth0", flow, across),
        _point(hop, "server.node", b.node, "eth0", flow, across),
        _point(hop, "server.node", b.node, "vxlan0", flow),
    )
    return (
        _point(hop, "client.pod", client, "eth0", flow),
        _point(hop, "client.pod", a.node, a.device, flow),
        *(tunnel if a.node != b.node else ()),
        _point(hop, "server.pod", b.node, b.device, flow),
        _point(hop, "server.pod", server, "eth0", flow),
    )


NICS: tuple[Row, ...] = (
    _point("edge", "client.node", "client", "eth0", BEFORE_NAT),
    _point("edge", "server.node", "one", "eth0", BEFORE_NAT),
    _point("edge", "server.pod", "one", POD["ingress"].device, BEHIND_NAT),
    _point("edge", "server.pod", "ingress", "eth0", BEHIND_NAT),
    *_between("page", "ingress", "productpage"),
    *_between("details", "productpage", "details"),
    *_between("reviews", "productpage", "reviews"),
    *_between("ratings", "reviews", "ratings"),
)
SPANS: tuple[Row, ...] = PROCESSES + NICS

"""The table of the spans that one request to Bookinfo makes: name, service, kind, parent. Data only; read by judge.py.

Whoever changes a call in `services/` or a hop in cluster.py changes it here. One `Hop` is one request on the wire,
with the CLIENT span of who sent it and, below that, the SERVER span of who read it; `cause` is the hop that the
sender was serving. Points of the network go below the CLIENT span of their hop: rows of kind INTERNAL with the
attributes that tell them apart.
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
        more = "".join(f" {value}" for value in self.attributes.values())
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
NICS: tuple[Row, ...] = ()  # kind INTERNAL, below "HOP client"
SPANS: tuple[Row, ...] = PROCESSES + NICS

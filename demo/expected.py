"""What one request of the demo shop must cause: for each kind of request its status and its calls, counted.

Assumes the services under `services/` (whoever changes a call there changes it here). Read by `drive.py` and
`truth.py`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# A request id, as `drive` makes them: a run's six hex digits and a number. Fit for a path, a DNS label and an
# SQL comment.
RID = re.compile(r"zs[0-9a-f]{6}n[0-9]{6}")


class Edge(NamedTuple):
    """One service calls another: the roles of both and the protocol between them."""

    client: str
    server: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.client}->{self.server} {self.protocol}"


class Kind(NamedTuple):
    """One kind of request: how to send it, the status it must get, and how often one walks each edge."""

    method: str
    path: str  # {rid} and {item} are filled in
    status: int
    edges: dict[Edge, int]
    share: int  # of 100 requests of the mix


DOOR = "nginx"  # the role of the service that clients talk to

_PROXY = Edge("nginx", "shop", "http")
_DNS = Edge("shop", "dns", "dns")
_CATALOG = Edge("shop", "catalog", "http")
_PRICING = Edge("shop", "pricing", "http")
_RECOMMEND = Edge("shop", "recommend", "http")
_CATALOG_SQL = Edge("catalog", "postgresql", "postgresql")
_CATALOG_REDIS = Edge("catalog", "redis", "redis")
_PRICING_SQL = Edge("pricing", "postgresql", "postgresql")
_PRICING_REDIS = Edge("pricing", "redis", "redis")

KINDS: dict[str, Kind] = {
    "products": Kind(
        "GET",
        "/r/{rid}/products/{item}",
        200,
        {
            _PROXY: 1,
            _DNS: 2,
            _CATALOG: 1,
            _PRICING: 1,
            _CATALOG_SQL: 1,
            _CATALOG_REDIS: 1,
            _PRICING_SQL: 1,
            _PRICING_REDIS: 1,
        },
        50,
    ),
    "recommend": Kind("GET", "/r/{rid}/recommend/{item}", 200, {_PROXY: 1, _DNS: 1, _RECOMMEND: 1}, 20),
    "orders": Kind(
        "POST",
        "/r/{rid}/orders",
        201,
        {_PROXY: 1, _DNS: 2, _CATALOG: 1, _PRICING: 1, _CATALOG_SQL: 1, _PRICING_SQL: 1, _PRICING_REDIS: 1},
        15,
    ),
    "missing": Kind(
        "GET", "/r/{rid}/missing/{item}", 404, {_PROXY: 1, _DNS: 1, _CATALOG: 1, _CATALOG_SQL: 1}, 10
    ),
    "broken": Kind(
        "GET", "/r/{rid}/broken/{item}", 500, {_PROXY: 1, _DNS: 1, _PRICING: 1, _PRICING_SQL: 1}, 5
    ),
}

# Role in this shop by service.name, in lower case. Whoever names a service otherwise adds to it
# (`truth.py --role NAME=ROLE`).
ROLES: dict[str, str] = {
    "nginx": "nginx",
    "shop": "shop",
    "catalog": "catalog",
    "pricing": "pricing",
    "pricing.jar": "pricing",
    "recommend": "recommend",
    "recommend.js": "recommend",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "redis": "redis",
    "redis-server": "redis",
    "dns": "dns",
    "dnsmasq": "dns",
}

"""The mesh: one Envoy configuration for each pod, and the rules that lead a pod's traffic through its Envoy.

As Istio does it: a side-car has an inbound listener (15006) for what comes to the program's port and an outbound one
(15001) for what the program sends to any service; nftables redirects both, and what Envoy itself sends is known by
its group. The program knows nothing of it: it looks a name up, connects to the ClusterIP, and its side-car picks the
pod by the Host header. Tracing is off; X-Request-ID is what Envoy makes by itself. Pure functions; called by
cluster.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

APP_PORT = 9080
INBOUND, OUTBOUND, ADMIN = 15006, 15001, 15000
INGRESS_PORT = 8080
ENVOY_GROUP = 1337
DOMAIN = "bookinfo"
TYPES = "type.googleapis.com/envoy.extensions"

Json = dict[str, Any]


def sidecar(name: str, pods: Mapping[str, str], *, answer_id: bool) -> Json:
    """The side-car of service `name`; `pods`: address of each service's pod. `answer_id`: Envoy shows X-Request-ID in
    the answers, too."""
    own = _cluster("app", "127.0.0.1")
    others = {service: _cluster(service, address) for service, address in pods.items()}
    return _bootstrap(
        name,
        [
            _listener("inbound", INBOUND, [_host("app", ["*"])], answer_id=answer_id),
            _listener(
                "outbound",
                OUTBOUND,
                [
                    _host(service, [f"{any_of}{service}.{DOMAIN}:{APP_PORT}" for any_of in ("", "*.")])
                    for service in others
                ],
                answer_id=answer_id,
            ),
        ],
        [own, *others.values()],
    )


def ingress(pod: str, *, answer_id: bool) -> Json:
    """The Envoy at the door: every request goes to productpage's pod. It is the edge, so that it makes a new
    X-Request-ID."""
    listener = _listener("edge", INGRESS_PORT, [_host("productpage", ["*"])], answer_id=answer_id, edge=True)
    return _bootstrap("ingress", [listener], [_cluster("productpage", pod)])


def redirection() -> str:
    """nftables for a pod with a side-car."""
    return f"""
table ip mesh {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    tcp dport {APP_PORT} redirect to :{INBOUND}
  }}
  chain output {{
    type nat hook output priority -100
    meta skgid {ENVOY_GROUP} return
    oifname "lo" return
    tcp dport {APP_PORT} redirect to :{OUTBOUND}
  }}
}}
"""


def _bootstrap(name: str, listeners: Sequence[Json], clusters: Iterable[Json]) -> Json:
    return {
        "node": {"id": name, "cluster": name},
        "admin": {"address": _address("127.0.0.1", ADMIN)},
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
    }


def _listener(name: str, port: int, hosts: Sequence[Json], *, answer_id: bool, edge: bool = False) -> Json:
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": edge,
        "always_set_request_id_in_response": answer_id,
        "route_config": {"name": name, "virtual_hosts": list(hosts)},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": _address("0.0.0.0", port), "filter_chains": [{"filters": filters}]}


def _host(cluster: str, domains: Sequence[str]) -> Json:
    route = {
        "cluster": cluster,
        "timeout": "15s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2},
    }
    return {"name": cluster, "domains": list(domains), "routes": [{"match": {"prefix": "/"}, "route": route}]}


def _cluster(name: str, address: str) -> Json:
    endpoint = {"endpoint": {"address": _address(address, APP_PORT)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}

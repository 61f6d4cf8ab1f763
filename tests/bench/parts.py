"""The parts of `make bench` that are programs of their own: run, and their figures given the names of report.ROWS.

Each is a script beside this one that writes JSON; a process of its own, so that memory and CPU are its own. Called by
bench.py. One that cannot be measured raises BenchError; the others go on.
"""

import collections
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
from machine import HERE, BenchError, agent_env

Figures = dict[str, list[float]]
HOSTS = (1, 2, 3)
STOP_S = 30.0
ADDRESSES = 10_000  # of the table in which a lookup is measured


def script(name: str, *arguments: str, timeout_s: float) -> Any:
    """The JSON of a script, which may use all cores; its progress is passed on. BenchError with its last words."""
    said: collections.deque[str] = collections.deque(maxlen=30)

    def listen(lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith(machine.PROGRESS):
                machine.say(line.removeprefix(machine.PROGRESS).rstrip())
            else:
                said.append(line)

    with tempfile.TemporaryDirectory(prefix="zerospan-bench-") as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", str(out)]
        every = ",".join(str(core) for core in range(machine.About.cores_here()))
        with subprocess.Popen(
            [machine.program("taskset"), "-c", every, *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=agent_env(),
        ) as process:  # fmt: skip
            assert process.stdout is not None
            listener = threading.Thread(target=listen, args=(process.stdout,), daemon=True)
            listener.start()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired as e:
                raise BenchError(f"{name} took more than {timeout_s:g} s") from e
            finally:
                machine.end(process, STOP_S)
                listener.join(STOP_S)
        if process.returncode or not out.exists():
            raise BenchError(f"{name} failed ({process.returncode}): {''.join(said).strip()[-800:]}")
        return json.loads(out.read_text())


def links() -> Figures:
    return links_figures(script("links", "--links", "100000", timeout_s=120))


def links_figures(found: Mapping[str, float]) -> Figures:
    names = {
        "links_per_s": "links_per_s_per_core", "links_engine_us": "engine_us_per_link",
        "links_wire_us": "wire_us_per_link", "links_redis_us": "redis_us_per_link",
        "links_redis_bytes": "redis_bytes_per_link", "links_table_bytes": "table_bytes_per_link",
    }  # fmt: skip
    return {name: [found[was]] for name, was in names.items()}


def assembly() -> Figures:
    return assembly_figures(script("assembly", "--rate", "50", "--seconds", "8", timeout_s=240))


def assembly_figures(found: Mapping[str, float]) -> Figures:
    out: Figures = {}
    for n in HOSTS:
        for name, was in (("p50_ms", "p50_ms"), ("p99_ms", "p99_ms"), ("missing", "traces_missing")):
            out[f"lag_{name}_{n}"] = [found[f"lag_{was}_{n}_hosts"]]
    out["open_request_bytes"] = [found["open_request_bytes_1_hosts"]]
    out["open_request_shared_bytes"] = [found["open_request_bytes_3_hosts"]]
    return out


def nic() -> Figures:
    found: Figures = script("nic_cost", "--rounds", "3", "--seconds", "2", timeout_s=240)
    return found


def enricher() -> Figures:
    return {
        **scale_figures(script("enricher_scale", timeout_s=400)),
        **tags_figures(script("tags", timeout_s=120)),
        **fanout_figures(script("enricher_fanout", "--seconds", "5", timeout_s=240)),
        **proxy_figures(script("otlp_proxy", "--requests", "1000", "--spans", "100", timeout_s=120)),
    }


def scale_figures(found: Mapping[str, Any]) -> Figures:
    if found["errors"]:
        raise BenchError(f"enricher_scale: {found['errors']}")
    names = ("list_cpu_s", "peak_mb", "rss_mb", "change_us", "change_core_percent")
    return {f"enricher_{name}": [found[name]] for name in names}


def tags_figures(found: Mapping[str, Any]) -> Figures:
    line = next(line for line in found["lookups"] if line["addresses"] == ADDRESSES)
    return {
        "tags_lookup_ns": [line["lookup_ns"]],
        "tags_lookup_port_ns": [line["lookup_with_port_ns"]],
        "tags_address_bytes": [line["memory_bytes_per_address"]],
        "tags_span_added_ns": [found["encode"]["traces_with_peer_ns"] - found["encode"]["traces_ns"]],
    }


def fanout_figures(found: Mapping[str, Any]) -> Figures:
    if found["cut"]:
        raise BenchError(f"enricher_fanout: subscribers were cut off: {found['cut']}")
    pods, services = found["pods_changed"], found["services_changed"]
    return {
        "fanout_mib": [found["connected_mib"]],
        "fanout_subscriber_kib": [1024 * (found["connected_mib"] - found["store_mib"]) / found["subscribers"]],
        "fanout_connect_cpu_s": [found["connect_cpu_s"]],
        "fanout_pod_p99_ms": [pods["latency_ms_p50_p95_p99"][2]],
        "fanout_pod_core_percent": [pods["cpu_percent"]],
        "fanout_all_p99_ms": [services["latency_ms_p50_p95_p99"][2]],
        "fanout_message_us": [services["cpu_us_a_message"]],
    }


def proxy_figures(found: Sequence[Mapping[str, Any]]) -> Figures:
    out: Figures = {}
    for line in found:
        if line.get("rewrite"):
            out["proxy_rewrite_us"] = [line["us_request"]]
        elif line["compression"] == "none" and line["out"].startswith(line["in"]):
            out[f"proxy_{line['in']}_spans_per_s"] = [line["spans_s_core"]]
        elif (line["in"], line["out"], line["compression"]) == ("grpc", "http/protobuf", "gzip"):
            out["proxy_gzip_spans_per_s"] = [line["spans_s_core"]]
    return out


def smart() -> Figures:
    found: dict[str, float] = script("smart_encoding", timeout_s=600)
    return {name: [value] for name, value in found.items()}


PARTS: Mapping[str, tuple[str, Callable[[], Figures]]] = {
    "links": ("links between hosts, Redis included", links),
    "assembly": ("lag of traces over 1, 2, 3 hosts", assembly),
    "nic": ("points at interfaces", nic),
    "enricher": ("the enricher: 50,000 pods, 5,000 subscribers, lookups, OTLP proxy", enricher),
    "smart": ("SmartEncoding in Prometheus, OTLP and Loki; about four minutes", smart),
}

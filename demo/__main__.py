"""`make demo`: the shop under the agent, and what one sees of it.

Starts the agent (`zerospan run`, as a user would), then the shop; sends a few hundred requests; stops both and prints a whole
trace as a tree, a RED table, three log lines, the ledger, and how to point it at one's own back ends. Judges every trace
against the request ids that it put into the paths. Exit code 0 only if each request is one whole trace.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo import truth
from demo.process import ShopError
from demo.shop import Shop

ROOT = Path(__file__).resolve().parent.parent
ZEROSPAN = str(ROOT / ".venv/bin/zerospan")
METRICS = "127.0.0.1:19464"


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


class AgentRun:
    """`zerospan run` with files and metrics, in a folder of its own."""

    def __init__(self, folder: Path, *, mask: bool) -> None:
        self.traces, self.logs, self.stderr = folder / "spans.jsonl", folder / "requests.jsonl", folder / "agent.log"
        settings = {"privacy": {"mask": mask}, "run_dir": str(folder / "run")}
        (folder / "zerospan.yaml").write_text(json.dumps(settings))  # JSON is YAML
        self._argv = [ZEROSPAN, "run", "--config", str(folder / "zerospan.yaml"), "--traces-file", str(self.traces),
                      "--logs-file", str(self.logs), "--metrics-listen", METRICS]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.stderr.open("wb") as err:
            self._process = subprocess.Popen(self._argv, stderr=err)
        end = time.monotonic() + 30
        while "ready" not in self.stderr.read_text():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"demo: the agent did not start:\n{self.stderr.read_text()}repeat it with: {' '.join(self._argv)}")
            time.sleep(0.05)

    def stop(self) -> str:
        """The ledger's line."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        said = self.stderr.read_text()
        return next((line for line in said.splitlines() if line.startswith("ledger:")), said)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tag", action="store_true", help="request ids in SQL, Redis keys and DNS names, too; literals unmasked")
    parser.add_argument("--keep", metavar="DIR", help="keep the files there")
    args = parser.parse_args()
    if os.geteuid() != 0:
        say("the hooks need root: run it as root, or with sudo")
        return 1
    with tempfile.TemporaryDirectory(prefix="zerospan-demo-") as temporary:
        folder = Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return run(args, folder)


def run(args: argparse.Namespace, folder: Path) -> int:
    agent = AgentRun(folder, mask=not args.tag)
    say("starting the agent")
    agent.start()
    try:
        say("starting the shop: nginx -> shop (Flask) -> catalog (Puma), pricing (Java), recommend (Node.js); PostgreSQL, Redis, DNS")
        with Shop(tag=args.tag) as shop:
            say(f"sending {args.requests} requests, {args.concurrency} at a time")
            requests = shop.drive(args.requests, args.concurrency, args.seed)
            time.sleep(3.5)  # the hold is 2 s
            with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=30) as answer:
                metrics = answer.read().decode()
    except ShopError as e:
        say(str(e))
        return 1
    finally:
        ledger = agent.stop()
    spans = list(truth.read_spans([str(agent.traces)]))
    judged = truth.judge(spans, [(r.rid, r.kind) for r in requests])

    title("One request, one trace")
    print(tree(agent.traces, {r.rid for r in requests if r.kind == "products"}))
    title("RED: rate, errors, duration (from /metrics)")
    print(red_table(metrics))
    title("Three lines of the request log")
    print("\n".join(log_lines(agent.logs, 3)))
    title("The ledger")
    print(ledger)
    title("The truth: request ids in the paths against the traces")
    print(judged.text())
    print(f"requests answered as expected: {sum(r.right for r in requests)} of {len(requests)}")
    print(POINTER)
    return 0 if judged.right and all(r.right for r in requests) else 1


def title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def tree(path: Path, rids: set[str]) -> str:
    """A whole trace of one of these requests: the first one that is no warm-up."""
    from zerospan.exporter.tree import Span, render_trace, spans_of

    traces: dict[str, list[Span]] = {}
    for line in path.read_text().splitlines():
        for span in spans_of(json.loads(line)):
            traces.setdefault(span.trace_id, []).append(span)
    wanted = [t for t in traces.values() if any(r in str(s.attributes.get("url.path")) for s in t for r in rids)]
    wanted.sort(key=lambda t: max(s.end_ns for s in t) - min(s.start_ns for s in t))
    return render_trace(wanted[len(wanted) // 2]) if wanted else "none"  # one of middling duration


def red_table(metrics: str) -> str:
    """Requests, errors and mean and 90th percentile of each service's endpoints, of HTTP and databases."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    buckets: dict[tuple[str, str], dict[float, float]] = {}
    line = re.compile(r"^(\w+)\{(.*)\} ([0-9.e+-]+)$")
    for text in metrics.splitlines():
        found = line.match(text)
        if not found or not found[1].startswith("traces_spanmetrics_"):
            continue
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2]))
        if labels.get("span_kind") != "SPAN_KIND_SERVER":
            continue
        key = labels.get("service", ""), labels.get("span_name", "")
        row = rows.setdefault(key, {"calls": 0, "errors": 0, "sum": 0})
        value = float(found[3])
        if found[1].endswith("calls_total"):
            row["calls"] += value
            row["errors"] += value if labels.get("status_code") == "STATUS_CODE_ERROR" else 0
        elif found[1].endswith("latency_sum"):
            row["sum"] += value
        elif found[1].endswith("latency_bucket"):
            counts = buckets.setdefault(key, {})
            edge = float(labels["le"].replace("+Inf", "inf"))
            counts[edge] = counts.get(edge, 0) + value
    out = [f"{'service':<12} {'endpoint':<34} {'requests':>8} {'errors':>7} {'mean ms':>8} {'p90 ms':>8}"]
    for (service, name), row in sorted(rows.items(), key=lambda item: (item[0][0], -item[1]["calls"])):
        if row["calls"] < 5:
            continue
        p90 = next((edge for edge, n in sorted(buckets[service, name].items()) if n >= 0.9 * row["calls"]), float("inf"))
        out.append(f"{service:<12} {name[:34]:<34} {row['calls']:>8.0f} {row['errors']:>7.0f} "
                   f"{1000 * row['sum'] / row['calls']:>8.2f} {'<' + format(1000 * p90, 'g'):>8}")  # fmt: skip
    return "\n".join(out)


def log_lines(path: Path, n: int) -> Iterable[str]:
    """The newest lines of different services."""
    picked: dict[str, str] = {}
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceLogs"]:
            service = _attribute(resource["resource"], "service.name")
            for record in resource["scopeLogs"][0]["logRecords"]:
                picked[service] = f"{service}: {record['body']['stringValue']}  trace_id={record['traceId']}"
    return list(picked.values())[:n]


def _attribute(thing: dict[str, Any], key: str) -> str:
    return next((a["value"].get("stringValue", "") for a in thing.get("attributes", []) if a["key"] == key), "")


POINTER = f"""
Point it at your own back ends:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 {Path(ZEROSPAN).relative_to(ROOT)} run --metrics-listen 127.0.0.1:9464
or in zerospan.yaml (docs/configuration.md):
  otlp: {{traces: {{endpoint: "http://TEMPO_OR_COLLECTOR:4318"}}}}
  loki: {{url: "http://LOKI:3100"}}
  metrics: {{listen: "0.0.0.0:9464"}}      # a scrape target for Prometheus"""

if __name__ == "__main__":
    sys.exit(main())

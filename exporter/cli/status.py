"""`zerospan status`: asks the running agent for its ledger and health, over the control socket."""

import argparse
import json
import sys
import time
from typing import Any

from zerospan.exporter.cli import options
from zerospan.exporter.selfmon.control import ask
from zerospan.exporter.terminal import cut, paint, plain, wants_color

EPILOG = """examples:
  zerospan status                     for people; as the agent's user (root)
  zerospan status --json              seen, exported, dropped, kernel, sinks
  zerospan status --run-dir /tmp/zs   of an agent with this --run-dir

Exit code: 0, or 1 if no agent answers."""

RATE_S = 0.5
TOP = 8
# Counters of the pipeline that tell of trouble; shown where they are not 0.
TROUBLE = (
    "records_unannounced",
    "records_bad",
    "connections_refused",
    "connections_evicted",
    "orphans",
    "parse_errors",
    "uncaptured",
    "gaps",
    "hold_early",
    "timeouts",
    "resets",
    "closed_early",
    "not_seen",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    parser.add_argument("--json", action="store_true", help="the agent's answer as one JSON object")


def main(args: argparse.Namespace) -> int:
    run_dir = options.configuration(args).run_dir
    status = ask(run_dir)
    if args.json:
        print(json.dumps(status))
        return 0
    began = time.monotonic()
    time.sleep(RATE_S)
    later = ask(run_dir)
    print(render(status, later, time.monotonic() - began, color=wants_color(sys.stdout)), end="")
    return 0


def render(before: dict[str, Any], s: dict[str, Any], seconds: float, *, color: bool = False) -> str:
    """The status `s` at 80 columns; rates since `before`, `seconds` earlier."""
    rate = (s["seen"] - before["seen"]) / seconds
    average = s["seen"] / max(s["uptime_s"], 0.1)
    drops = "  ".join(f"{name} {n}" for name, n in sorted(s["dropped"].items())) or "none"
    waiting = "  ".join(f"{name} {n}" for name, n in sorted(s["in_flight"].items())) or "none"
    lost = sum(n for name, n in s["kernel"].items() if name.startswith("ring_full"))
    lines = [
        f"zerospan {s['version']}, pid {s['pid']}, up {_time(s['uptime_s'])}, hooks {s['hooks']}",
        f"self-test   {plain(str(s['selftest']))}",
        "",
        paint("ledger (spans)", "bold", color),
        f"  seen      {s['seen']:>14}   now {rate:.1f}/s, on average {average:.1f}/s",
        f"  exported  {s['exported']:>14}",
        f"  dropped   {sum(s['dropped'].values()):>14}   {paint(drops, 'red', color and bool(s['dropped']))}",
        f"  in flight {sum(s['in_flight'].values()):>14}   {waiting}",
        "",
        paint("kernel", "bold", color),
        f"  records   {s['kernel'].get('emitted', 0):>14}   lost to a full ring: {lost}",
        "",
        paint("pipeline", "bold", color),
        *_columns({name: n for name, n in _top(s["pipeline"]).items()}),
    ]
    trouble = {name: s["pipeline"][name] for name in TROUBLE if s["pipeline"].get(name)}
    trouble |= {name: n for name, n in s["kernel"].items() if n and name != "emitted"}
    if trouble:
        lines += ["", paint("worth a look", "yellow", color), *_columns(trouble)]
    lines += [
        "",
        paint("memory", "bold", color),
        *_columns({k: f"{n >> 10} KiB" for k, n in s["memory_bytes"].items()}),
    ]
    if s.get("links_shared"):
        lines += ["", paint("links shared with other hosts", "bold", color), *_shared(s["links_shared"], color)]
    if s.get("enricher"):
        lines += ["", paint("enricher", "bold", color), *_enricher(s["enricher"], s["pipeline"], color)]
    lines += ["", paint("sinks", "bold", color), *_sinks(s["sinks"], color)]
    if s.get("metrics"):
        lines.append(f"  /metrics         at {s['metrics']}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _top(counters: dict[str, int]) -> dict[str, int]:
    names = [n for n in counters if n not in TROUBLE and n not in ("seen", "released") and counters[n]]
    return {name: counters[name] for name in sorted(names, key=lambda n: -counters[n])[:TOP]}


def _columns(values: dict[str, Any]) -> list[str]:
    """Two entries a line."""
    cells = [f"{name:<21} {value:>14}" for name, value in values.items()] or ["none"]
    return ["  " + "   ".join(cells[i : i + 2]) for i in range(0, len(cells), 2)]


def _shared(s: dict[str, Any], color: bool) -> list[str]:
    state = "ok" if s["connected"] else paint("AWAY", "red", color)
    queue = f"queue {s['queue_bytes'] >> 10}/{s['queue_limit_bytes'] >> 10} KiB"
    trip = f"round trip {1000 * s['round_trip_s']:.1f} ms"
    lines = [cut(f"  {plain(s['store'])}  {state}, {trip}, {queue}", 100 if color else 80)]
    lines += _columns({name: n for name, n in s["events"].items() if n})
    if s["last_error"]:
        lines.append(cut(f"    last error: {plain(s['last_error'])}", 80))
    return lines


def _enricher(s: dict[str, Any], counters: dict[str, int], color: bool) -> list[str]:
    state = "connected" if s["in_sync"] else "not in sync" if s["connected"] else paint("AWAY", "red", color)
    since = _time(max(time.time() - s["since_unix_s"], 0))
    lines = [
        f"  {state} for {since}, heard {s['silent_s']:.0f} s ago; epoch {s['epoch']}, revision {s['revision']}",
        cut(f"  node {plain(s['node'])}, {plain(s['address'])}", 80),
    ]
    if not s["connected"]:
        lines.append("  what it told last is stamped on, and it is tried again")
    values = {name: s[name] for name in ("keys", "negative", "unanswered", "sets")}
    values["memory"] = f"{s['memory_bytes'] >> 10}/{s['memory_limit_bytes'] >> 10} KiB"
    late = ("tags_late", "peer_unknown", "peer_unanswered", "peer_away")
    values |= {name: counters[name] for name in late if counters.get(name)}
    lines += _columns(values | {name: n for name, n in s["events"].items() if n})
    if s["last_error"]:
        lines.append(cut(f"    last error: {plain(s['last_error'])}", 80))
    return lines


def _sinks(sinks: list[dict[str, Any]], color: bool) -> list[str]:
    lines = [] if sinks else ["  none: nothing is exported"]
    for sink in sinks:
        state = paint("FAILING", "red", color) if sink["failing"] else "ok"
        queue = f"queue {sink['queue_bytes'] >> 10}/{sink['queue_limit_bytes'] >> 10} KiB"
        lost = sum(sink["dropped"].values())
        lines.append(f"  {sink['name']:<16} {state:<8} sent {sink['sent_items']}, dropped {lost}, {queue}")
        if sink["last_error"]:
            lines.append(cut(f"    last error: {plain(sink['last_error'])}", 80))
    return lines


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

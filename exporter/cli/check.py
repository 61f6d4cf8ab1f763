"""`zerospan check`: what this kernel and these rights allow, tried out; with a verdict and what to do."""

import argparse
import json
import os
import socket
import sys
import textwrap
from urllib.parse import urlsplit

import msgspec

from zerospan import __version__
from zerospan.exporter.cli import machine, options
from zerospan.exporter.cli.machine import Finding
from zerospan.exporter.config import Config, ConfigError, ring_size
from zerospan.exporter.config.model import MIN_RING_BYTES, Enricher, Files, Filter
from zerospan.exporter.config.rules import listen_address
from zerospan.exporter.config.secret import Url
from zerospan.exporter.link.probe import probe
from zerospan.exporter.link.store import MEMORY
from zerospan.exporter.source import bpf, capture, nic
from zerospan.exporter.tags.probe import probe as probe_enricher
from zerospan.exporter.terminal import paint, wants_color

EPILOG = """examples:
  sudo zerospan check                      is this machine fit; which hooks
  sudo zerospan check --config agent.yaml  with its settings, receivers, links,
                                           enricher
  sudo zerospan check --json               for scripts: usable, hooks, findings

Loads each family of hooks for a moment and sends one request over 127.0.0.1
through those that would be used. Leaves nothing behind.
Exit code: 0 usable, 1 not usable (the last line says why)."""

CONNECT_S = 2.0
PORTS = {"http": 80, "https": 443}
COLORS = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    options.add_capture(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--no-sinks", action="store_true", help="do not try to reach the receivers, the store of links, the enricher"
    )


def main(args: argparse.Namespace) -> int:
    names = machine.held()
    findings = machine.facts(names, bpf.__file__)
    try:
        config = options.configuration(args)
        findings.append(Finding("config", "ok", args.config or os.environ.get("ZEROSPAN_CONFIG") or "defaults"))
    except ConfigError as e:
        config = Config()
        findings.append(Finding("config", "fail", str(e), "see `zerospan config --schema`"))
    hooks, tried = layouts(config, machine.may_load(names))
    findings += tried
    if machine.may_load(names):
        findings.append(interfaces(config))
    findings += [filters(config), ring(config)]
    if not args.no_sinks:
        findings += sinks(config)
        findings += [links(config), enricher(config)]
    findings.append(selftest(config, hooks))
    return answer(args, hooks, findings)


def layouts(config: Config, may_load: bool) -> tuple[str, list[Finding]]:
    """(the layout that `run` would use or "", a finding for each). Loads and unloads each one."""
    chosen, out = "", []
    for layout in capture.LAYOUTS:
        wanted = config.capture.hooks in ("auto", layout)
        why = capture.missing(layout)
        if not why and not may_load:
            why = "this kernel has them; not tried, rights are missing (see above)"
        if not why:
            why = load(layout)
        name = f"hooks {layout}"
        if why:
            state: machine.State = "fail" if config.capture.hooks == layout else "info"
            fix = "choose other hooks, or --hooks auto" if state == "fail" and may_load else ""
            out.append(Finding(name, state, f"no: {why}", fix))
        elif chosen or not wanted:
            reason = f"{chosen} costs less" if chosen and wanted else f"--hooks {config.capture.hooks} is set"
            out.append(Finding(name, "ok", f"would work; not used: {reason}"))
        else:
            chosen = layout
            out.append(Finding(name, "ok", "loads and attaches; USED"))
    return chosen, out


def interfaces(config: Config) -> Finding:
    """How the programs for network interfaces would be attached."""
    reasons = {way: nic.missing(way) for way in nic.WAYS}
    fit = [way for way, why in reasons.items() if not why]
    lacking = "; ".join(f"{way}: {why}" for way, why in reasons.items() if why)
    if not fit:
        return Finding("NIC points", "warn" if config.capture.nic else "info", f"no: {lacking}")
    share = f"capture.nic is {config.capture.nic:g}" if config.capture.nic else "capture.nic is off"
    text = f"{fit[0]} ({share}); would work, too: {', '.join(fit[1:]) or 'nothing'}"
    return Finding("NIC points", "ok", f"{text}; {lacking}" if lacking else text)


def load(layout: str) -> str:
    """Empty if the layout loads and attaches, else why not."""
    try:
        capture.Capture(layout, ring_bytes=MIN_RING_BYTES).close()
    except capture.CaptureError as e:
        return e.reasons.get(layout, str(e))
    except OSError as e:
        return str(e)
    return ""


def short(why: str) -> str:
    """A loader's error for people: what libbpf adds is for --json, and some of it misleads (its ulimit)."""
    what, _, said = why.partition("; libbpf: ")
    return f"{what} (--json has more)" if said else what


def filters(config: Config) -> Finding:
    given = {name: getattr(config.filter, name) for name in config.filter.__struct_fields__}
    try:
        capture.filter_keys(capture.Filters(**given))
    except capture.CaptureError as e:
        return Finding("filters", "fail", str(e))
    text = ", ".join(f"{name}: {' '.join(map(str, values))}" for name, values in given.items() if values)
    return Finding("filters", "ok", text or "none: the whole machine is watched")


def ring(config: Config) -> Finding:
    size = ring_size(config.capture.ring_bytes)
    return Finding("ring buffer", "ok", f"{size >> 10} KiB (capture.ring_bytes {config.capture.ring_bytes})")


def sinks(config: Config) -> list[Finding]:
    """Whether something listens where the agent would send. Not one byte is sent."""
    places: list[tuple[str, Url]] = []
    for signal in ("traces", "logs"):
        receiver = getattr(config.otlp, signal)
        if receiver is not None:
            places.append((f"otlp.{signal}", receiver.endpoint))
    if config.loki is not None:
        places.append(("loki", config.loki.url))
    out = [reach(key, url) for key, url in places]
    for key, path in (("files.traces", config.files.traces), ("files.logs", config.files.logs)):
        if path is not None:
            out.append(writable(key, path))
    if config.metrics.listen is not None:
        out.append(bindable(config.metrics.listen))
    if not out and not config.console.tree:
        out.append(
            Finding(
                "sinks",
                "info",
                "none: nothing is exported until one is set",
                "e.g. --traces-file FILE, --metrics-listen 127.0.0.1:9464, OTEL_EXPORTER_OTLP_ENDPOINT",
            )
        )
    return out


def links(config: Config) -> Finding:
    """The store of `links` as the agent would use it: one value is written, read and gone."""
    found = probe(config.links, timeout_s=config.link.shared_timeout_s, hold_s=config.link.hold_s)
    return Finding("links", found.state, found.text, found.fix)


def enricher(config: Config) -> Finding:
    """The enricher as the agent would use it: it is asked for this node."""
    found = probe_enricher(config.enricher)
    return Finding("enricher", found.state, found.text, found.fix)


def reach(key: str, url: Url) -> Finding:
    text = url.reveal()
    parts = urlsplit(text if "://" in text else f"https://{text}")
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as e:
        return Finding(
            f"sink {key}",
            "warn",
            f"{host}:{port} cannot be reached: {e.strerror or e}",
            "the agent tries again and again; start the receiver, or correct its address",
        )
    return Finding(f"sink {key}", "ok", f"{url} can be reached")


def writable(key: str, path: str) -> Finding:
    folder = os.path.dirname(path) or "."
    if path == "-" or os.access(path if os.path.exists(path) else folder, os.W_OK):
        return Finding(f"sink {key}", "ok", "standard output" if path == "-" else path)
    return Finding(
        f"sink {key}",
        "fail",
        f"{path} cannot be written",
        f"is there a folder {folder}, and may you write to it?",
    )


def bindable(listen: str) -> Finding:
    host, port = listen_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, port))
    except OSError as e:
        return Finding(
            "metrics.listen",
            "warn",
            f"{listen}: {e.strerror or e}",
            "in order if the agent runs already, else choose another port",
        )
    return Finding("metrics.listen", "ok", listen)


def selftest(config: Config, hooks: str) -> Finding:
    """One request through the hooks that would be used, with the filters and the sinks left out."""
    if not hooks:
        return Finding("self-test", "info", "not made: no hooks")
    from zerospan.exporter import pipeline  # loads all that the agent consists of
    from zerospan.exporter.selftest import SelfTest

    bare = msgspec.structs.replace(
        options.without_receivers(config), filter=Filter(), files=Files(), links=Url(MEMORY), enricher=Enricher()
    )
    test = SelfTest()
    agent = pipeline.build(bare, hidden=test.hidden, control=False)
    try:
        agent.start()
        problem = test.run(agent, bare)
    finally:
        agent.stop(1.0)
    if problem:
        return Finding("self-test", "fail", problem)
    return Finding("self-test", "ok", f"a request over 127.0.0.1 came out at both ends ({hooks})")


def answer(args: argparse.Namespace, hooks: str, findings: list[Finding]) -> int:
    failed = [f for f in findings if f.state == "fail"]
    usable = bool(hooks) and not failed
    first = next((f for f in failed if f.fix), failed[0] if failed else None)
    if usable:
        verdict = f"usable, with hooks {hooks}"
    else:
        verdict = (
            f"NOT usable: {first.name}: {short(first.text)}"
            if first
            else "NOT usable: no family of hooks can be loaded"
        )
        verdict += f"; {first.fix}" if first and first.fix else ""
    if args.json:
        print(
            json.dumps(
                {
                    "usable": usable,
                    "hooks": hooks,
                    "version": __version__,
                    "verdict": verdict,
                    "findings": [msgspec.to_builtins(f) for f in findings],
                },
                indent=2,
            )
        )
        return 0 if usable else 1
    color = wants_color(sys.stdout)
    for f in findings:
        mark = paint(f"{f.state:<4}", COLORS[f.state], color)
        lines = textwrap.wrap(short(f.text), 54, break_on_hyphens=False) or [""]
        lines += textwrap.wrap(f"-> {f.fix}", 54, subsequent_indent="   ", break_on_hyphens=False) if f.fix else []
        print(f"{mark}  {f.name:<19} {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<25} {line}")
    print(paint(f"zerospan {__version__} is {verdict}.", "green" if usable else "red", color))
    return 0 if usable else 1

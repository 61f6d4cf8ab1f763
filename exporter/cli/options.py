"""Options that several commands share, and how they become configuration."""

import argparse
import os
from typing import Any

import msgspec

from zerospan.exporter.config import Config, load
from zerospan.exporter.config.model import Console, Otlp

# option -> configuration key
FILTERS = {
    "pid": "filter.pid",
    "exe": "filter.exe",
    "port": "filter.port",
    "cgroup": "filter.cgroup",
    "netns": "filter.netns",
}


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML configuration (default: $ZEROSPAN_CONFIG)")
    parser.add_argument("--run-dir", metavar="DIR", help="folder of the control socket (default: /run/zerospan)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="least level shown")


def add_capture(parser: argparse.ArgumentParser) -> None:
    """Hooks and filters; each filter may be given several times."""
    parser.add_argument(
        "--hooks", choices=("auto", "sock_length", "sys_exit", "fexit"), help="hook family (default: auto)"
    )
    group = parser.add_argument_group(
        "filters", "decided in the kernel; each may be given several times, and all must match"
    )
    group.add_argument("--pid", action="append", type=int, metavar="PID", help="a process")
    group.add_argument("--exe", action="append", metavar="PATH", help="an executable: a path, or a name in PATH")
    group.add_argument("--port", action="append", type=int, metavar="PORT", help="a port of either end")
    group.add_argument("--cgroup", action="append", metavar="PATH", help="a cgroup (version 2) and what is below it")
    group.add_argument("--netns", action="append", metavar="NS", help="a network namespace: a path, a name, or self")


def add_sinks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traces-file", metavar="FILE", help="OTLP JSON lines of spans; - for standard output")
    parser.add_argument("--logs-file", metavar="FILE", help="OTLP JSON lines of request logs; - for standard output")
    parser.add_argument("--metrics-listen", metavar="HOST:PORT", help="serve /metrics, e.g. 127.0.0.1:9464")


def configuration(args: argparse.Namespace, **more: Any) -> Config:
    """The configuration of this run: defaults < file < environment < options. Raises ConfigError."""
    given = vars(args)
    overrides: dict[str, Any] = {key: given.get(option) for option, key in FILTERS.items()}
    overrides |= {
        "capture.hooks": given.get("hooks"),
        "files.traces": given.get("traces_file"),
        "files.logs": given.get("logs_file"),
        "metrics.listen": given.get("metrics_listen"),
        "run_dir": given.get("run_dir"),
        "log.level": given.get("log_level"),
    }
    return load(args.config, os.environ, overrides | more)


def without_receivers(config: Config, *, metrics: str | None = None) -> Config:
    """`config` without receivers and console, /metrics only at `metrics`: for commands that are no agent."""
    listen = msgspec.structs.replace(config.metrics, listen=metrics)
    return msgspec.structs.replace(config, otlp=Otlp(), loki=None, console=Console(), metrics=listen)

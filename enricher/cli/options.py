"""Options that the enricher's commands share, and how they become configuration."""

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerospan.enricher.config import Config

OPTIONS = {
    "scope": "scope",
    "node": "node",
    "cluster_name": "cluster.name",
    "listen_grpc": "listen.grpc",
    "listen_http": "listen.http",
    "unix": "listen.unix",
    "upstream": "upstream.address",
    "log_level": "log.level",
}


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML configuration (default: $ZEROSPAN_ENRICHER_CONFIG)")
    parser.add_argument("--unix", metavar="PATH", help="Unix socket of the tag service (/run/zerospan/enricher.sock)")
    parser.add_argument("--node", metavar="NAME", help="this node's name (default: $NODE_NAME, else the host's)")


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scope", choices=("node", "cluster"), help="know one node (default) or all of a cluster")
    parser.add_argument("--cluster-name", metavar="NAME", help="the cluster's name")
    parser.add_argument("--listen-grpc", metavar="HOST:PORT", help="serve the tag service over TCP")
    parser.add_argument("--listen-http", metavar="HOST:PORT", help="serve /metrics, /lookup, /healthz, /readyz")
    parser.add_argument("--upstream", metavar="ADDRESS", help="enricher of cluster scope to follow")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="least level shown")


def configuration(args: argparse.Namespace) -> "Config":
    """Defaults < file < environment < options. Raises ConfigError."""
    from zerospan.enricher.config import load

    overrides: dict[str, Any] = {key: getattr(args, option, None) for option, key in OPTIONS.items()}
    return load(args.config, os.environ, overrides)

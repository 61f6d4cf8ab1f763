"""`zerospan enricher`: its own commands. Registered in exporter/cli, whose error boundary this is under."""

import argparse
import importlib
import sys

# Command -> one line of help. zerospan.enricher.cli.<command> has add_arguments(parser) and main(args) -> int.
COMMANDS = {
    "run": "know what every address, container and process is, and tell agents, OTLP and Prometheus",
    "lookup": "ask the running enricher what something is",
    "config": "check a configuration, print its JSON schema or what it amounts to",
}
EXTRA = ("grpc", "google", "prometheus_client", "kubernetes")  # what the extra brings
EPILOG = """examples:
  zerospan enricher run
  zerospan enricher run --config /etc/zerospan/enricher.yaml
  zerospan enricher lookup 10.244.1.7
  zerospan enricher lookup --json 4711
  zerospan enricher config --schema"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="enricher_command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        importlib.import_module(f"{__name__}.{name}").add_arguments(sub)


def main(args: argparse.Namespace) -> int:
    try:
        code: int = importlib.import_module(f"{__name__}.{args.enricher_command}").main(args)
        return code
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in EXTRA:
            raise
        print(
            f"zerospan: the enricher needs the package {e.name}, which is not installed;"
            " install it with: pip install 'zerospan[enricher]'",
            file=sys.stderr,
        )
        return 1

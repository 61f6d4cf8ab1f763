"""`zerospan config`: checks a configuration and prints what it amounts to, or the JSON schema."""

import argparse
import json

import yaml

from zerospan.exporter.cli import options
from zerospan.exporter.config import describe

EPILOG = """examples:
  zerospan config --config agent.yaml      check it, print what it amounts to
  zerospan config --schema > schema.json   for editors
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 zerospan config

Settings come from defaults < file < OTEL_* < ZEROSPAN_* < options. Values of
headers and passwords are not shown.
Exit code: 0 valid, 2 not valid (each mistake with its place)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the YAML file instead")
    parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
    options.add_sinks(parser)
    options.add_capture(parser)


def main(args: argparse.Namespace) -> int:
    if args.schema:
        from zerospan.exporter.config.schema import schema

        print(json.dumps(schema(), indent=2))
        return 0
    settings = describe(options.configuration(args))
    if args.json:
        print(json.dumps(settings, indent=2))
    else:
        # to_builtins leaves tuples, which YAML would tag
        print(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False, allow_unicode=True), end="")
    return 0

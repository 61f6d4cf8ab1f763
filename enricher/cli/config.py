"""`zerospan enricher config`: checks a configuration and prints what it amounts to, or the JSON schema."""

import argparse
import json

import yaml

from zerospan.enricher.cli import options

EPILOG = """examples:
  zerospan enricher config --config enricher.yaml   check it, print what it amounts to
  zerospan enricher config --schema > schema.json   for editors

Settings come from defaults < file < ZEROSPAN_ENRICHER_* < options. Tokens are
not shown.
Exit code: 0 valid, 2 not valid (each mistake with its place)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the YAML file instead")
    parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
    options.add_run(parser)


def main(args: argparse.Namespace) -> int:
    from zerospan.enricher.config import describe, schema

    if args.schema:
        print(json.dumps(schema(), indent=2))
        return 0
    text = json.dumps(describe(options.configuration(args)), indent=2)
    if args.json:
        print(text)
    else:
        print(yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True), end="")
    return 0

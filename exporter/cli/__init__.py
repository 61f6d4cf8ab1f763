"""The command line: a registry of commands, one error boundary, exit codes.

Exit codes: 0 done; 1 it could not be done (the message says what, why and what to do); 2 wrong usage or
configuration.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from zerospan import __version__

# Command -> one line of help. The module zerospan.exporter.cli.<command> has add_arguments(parser) and
# main(args) -> int; it is imported only if it is the command: a status query should not load the agent.
COMMANDS = {
    "run": "watch this machine and export traces, metrics and logs",
    "check": "say what this kernel and these rights allow, and test it",
    "status": "ask the running agent for its ledger and health",
    "watch": "show requests and RED figures live in the terminal",
    "record": "write the kernel's events to a file",
    "replay": "run recorded events through the pipeline, without root",
    "config": "check a configuration, print its JSON schema or what it amounts to",
    "enricher": "know what every address, container and process is, for agents and anyone's OTLP",
}
ELSEWHERE = {"enricher": "zerospan.enricher.cli"}  # modules that do not stand here


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of `zerospan`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="zerospan",
        description="Every request on a machine in Grafana, with no change to any program.",
        epilog="Examples:\n  zerospan check\n  zerospan run --traces-file spans.jsonl --duration 30\n"
        "  zerospan run --config /etc/zerospan.yaml\n  zerospan status --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"zerospan {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((a for a in argv if not a.startswith("-")), None)
    modules = {}
    for name, text in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == wanted:
            try:
                modules[name] = importlib.import_module(ELSEWHERE.get(name, f"zerospan.exporter.cli.{name}"))
            except ImportError as e:
                if "libbpf" not in str(e):
                    raise
                print(f"zerospan: {e}; install libbpf (Debian: libbpf1)", file=sys.stderr)
                return 1
            modules[name].add_arguments(sub)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="zerospan: %(levelname)s: %(message)s", stream=sys.stderr)
    return _guarded(modules[args.command], args)


def _guarded(module: object, args: argparse.Namespace) -> int:
    """The one place where an exception becomes a message and an exit code."""
    from zerospan.exporter.config import ConfigError
    from zerospan.exporter.selfmon.control import ControlError

    try:
        code: int = module.main(args)  # type: ignore[attr-defined]
        return code
    except ConfigError as e:
        print(f"zerospan: {e}", file=sys.stderr)
        return 2
    except ControlError as e:
        print(f"zerospan: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes
        return 1
    except KeyboardInterrupt:
        return 1
    except OSError as e:
        print(f"zerospan: {e}", file=sys.stderr)
        return 1
    except Exception as e:
        # CaptureError lives beside the binding of libbpf, which only some commands load.
        if type(e).__name__ not in ("CaptureError", "ReplayError"):
            raise
        print(f"zerospan: {_without_rights(e) or e}", file=sys.stderr)
        return 1


def _without_rights(e: Exception) -> str:
    """What to say where the hooks could not be set for want of rights: libbpf's own words would mislead."""
    from zerospan.exporter.cli import machine

    if not getattr(e, "reasons", None) or machine.may_load(machine.held()):
        return ""
    return f"no rights to load BPF programs: {machine.AS_ROOT}. `zerospan check` has the details"

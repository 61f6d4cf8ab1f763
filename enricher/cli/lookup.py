"""`zerospan enricher lookup`: asks the running enricher what something is."""

import argparse
import json
import sys
import time

from zerospan.enricher.cli import options

EPILOG = """examples:
  zerospan enricher lookup 10.244.1.7             an address
  zerospan enricher lookup 10.0.0.5:30080         a port of it (node ports, host ports)
  zerospan enricher lookup --json 4711            a process of this host, as JSON
  zerospan enricher lookup 3ff9c1d2-0b0e-4c55-9d2e-5f3e1c2a7b10      a pod by its uid
  zerospan enricher lookup --address enricher.zerospan.svc:4319 --ca ca.crt \\
      --token-file token n1

A container is given by its whole id (64 hexadecimal digits).
Exit code: 0, or 1 if nothing is known of it or no enricher answers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("thing", metavar="ADDRESS|CONTAINER|PID|POD-UID|NODE", help="what to look up")
    parser.add_argument("--json", action="store_true", help="one JSON object of tags")
    parser.add_argument("--address", metavar="ADDRESS", help="HOST:PORT or unix:/PATH (default: the Unix socket)")
    options.add_config(parser)
    parser.add_argument("--tls", action="store_true", help="TLS, with the system's CA certificates")
    parser.add_argument("--ca", metavar="FILE", default="", help="TLS, with these CA certificates")
    parser.add_argument("--cert", metavar="FILE", default="", help="client certificate")
    parser.add_argument("--key", metavar="FILE", default="", help="its private key")
    parser.add_argument("--token-file", metavar="FILE", default="", help="file that holds the bearer token")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="time to answer (default: 5)")


def main(args: argparse.Namespace) -> int:
    from zerospan.enricher import keys
    from zerospan.enricher.client import Mirror, Security, resolve
    from zerospan.enricher.lookup import PROC, candidates
    from zerospan.enricher.run import node_name

    config = options.configuration(args)
    address = args.address or (f"unix:{config.listen.unix}" if config.listen.unix else config.listen.grpc)
    try:
        wanted = candidates(args.thing, node_name(config), PROC)
    except ValueError as e:
        print(f"zerospan enricher lookup: {e}", file=sys.stderr)
        return 2
    if not address:
        print("zerospan: this configuration has no listen.unix and no listen.grpc; say --address", file=sys.stderr)
        return 1
    security = Security(tls=args.tls, ca=args.ca, cert=args.cert, key=args.key, token_file=args.token_file)
    update = resolve(address, wanted, security, timeout_s=args.timeout)
    mirror = Mirror()
    mirror.update(update)
    now = time.time_ns()
    for key in wanted:
        tags = mirror.find(key, now)
        if tags is not None:
            since = next(s for _, s, until in mirror.bindings[key] if s <= now and (not until or now < until))
            print(
                json.dumps(tags, ensure_ascii=False, sort_keys=True)
                if args.json
                else table(keys.show(key), since, tags)
            )
            return 0
    ended = [pieces[-1] for key in wanted if (pieces := mirror.bindings.get(key))]
    was = f"; until {moment(ended[-1][2])} it was {name(mirror.tags(ended[-1][0]))}" if ended and ended[-1][2] else ""
    waits = "" if update.in_sync else " (yet: it is not in sync)"
    print(f"zerospan: the enricher knows nothing of {args.thing}{waits}{was}", file=sys.stderr)
    return 1


def table(what: str, since_ns: int, tags: dict[str, str]) -> str:
    """For people: what it is, then a line a tag."""
    width = max(map(len, tags), default=0)
    since = f", since {moment(since_ns)}" if since_ns else ""
    lines = [f"{what}{since}", *(f"  {key:<{width}}  {printable(tags[key])}" for key in sorted(tags))]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def moment(ns: int) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns / 1e9))


def name(tags: dict[str, str]) -> str:
    """The best short name of a set."""
    best = next(
        (tags[k] for k in ("k8s.pod.name", "service.name", "container.name", "host.name") if k in tags), "known"
    )
    return printable(best)

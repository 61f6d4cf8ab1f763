"""Names of Ruby programs. Called by names.py. Options: ruby(1), version 3.4; titles: puma, unicorn, sidekiq,
Passenger.
"""

import re
from collections.abc import Sequence

from zerospan.exporter.process.arguments import option, positionals, script_at
from zerospan.exporter.process.program import Program
from zerospan.exporter.process.text import beside, folder, stem, word, words

VALUES = words(
    """
    -r -I -C -E -K -F --encoding --external-encoding --backtrace-limit
    """
)
FLAGS = words(
    """
    --yjit --jit --mjit --rjit --verbose --disable-gems --parser --debug
    """
)
STOPS = frozenset(("-e", "-v", "--version", "-h", "--help"))
GENERIC = words(
    """
    main server config run start index boot application environment
    """
)
TOOLS = words(
    """
    puma pumactl unicorn unicorn_rails rainbows thin falcon rails rake
    """
)
TAG = re.compile(r"\[([^\[\]]+)\]\s*$")
SIDEKIQ = re.compile(r"sidekiq \S+ (\S+) \[")
PASSENGER = re.compile(r"Passenger \w+: (/\S+)")


def name(p: Program) -> str:
    """The name of a Ruby program, "" if nothing tells."""
    if p.title:
        return _titled(p)
    at = script_at(p.args, values=VALUES, flags=FLAGS, stops=STOPS, suffixes=(".rb", ".ru"))
    return _script(p, p.args[at], p.args[at + 1 :]) if at >= 0 else ""


def _script(p: Program, script: str, args: Sequence[str]) -> str:
    found = stem(script)
    if found == "bundle" and len(args) > 1 and args[0] == "exec":
        return _script(p, args[1], args[2:])
    if found in TOOLS:
        return word(option(args, "--tag")) or folder(option(args, "--dir") or ".", p.cwd) or found
    if found == "rackup":
        config = next((arg for arg in positionals(args, ("-D", "-d", "-w", "-q")) if arg.endswith(".ru")), "")
        return beside(config or "config.ru", p.cwd) or found
    if found == "sidekiq":
        return folder(option(args, "-r", "--require") or ".", p.cwd) or found
    if found.lower() in GENERIC:
        return beside(script, p.cwd) or found
    return found


def _titled(p: Program) -> str:
    for pattern in (SIDEKIQ, TAG if p.title.startswith("puma") else SIDEKIQ):
        match = pattern.search(p.title)
        if match and word(match[1]):
            return match[1]
    match = PASSENGER.match(p.title)
    if match:
        return folder(match[1]) or "passenger"
    match = re.match(r"\W{0,3}(\w[\w.+]*)", p.title)
    first = word(match[1]) if match else ""
    if first in TOOLS:
        return folder(p.cwd) or first
    return first

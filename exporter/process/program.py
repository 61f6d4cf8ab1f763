"""What runs in a process, as its executable and its command line tell. Made by describe.py, read by the
namers.

An interpreter is recognised by the executable's name, and by the first argument only where that cannot be
read.
"""

import re
from typing import NamedTuple

from zerospan.exporter.process.text import base

FAMILY = re.compile(
    r"(?P<python>(?:platform-)?python[\d.]*[dmtw]{0,2}|pypy[\d.]*)"
    r"|(?P<java>java|jsvc)"
    r"|(?P<node>node|nodejs|node-?\d[\d.]*|iojs)|(?P<deno>deno)|(?P<bun>bun)"
    r"|(?P<ruby>ruby[\d.]*|truffleruby)"
    r"|(?P<phpfpm>php-?fpm-?[\d.]*|php[\d.]*-fpm)|(?P<php>php[\d.]*|php-cgi[\d.]*|php[\d.]+-cgi)"
    r"|(?P<perl>perl[\d.]*)|(?P<shell>sh|bash|dash|zsh|ksh|mksh|ash|fish)"
    r"|(?P<dotnet>dotnet|mono|mono-sgen)|(?P<beam>beam|beam\.smp)|(?P<uwsgi>uwsgi|uwsgi-core)"
    r"|(?P<script>lua[\d.]*|luajit[\w.-]*|texlua|R|Rscript|julia|tclsh[\d.]*|wish[\d.]*|guile[\d.]*|osascript)"
)
LOADER = re.compile(r"ld-linux[\w.-]*\.so\.\d+|ld-musl-[\w-]+\.so\.1|ld-[\d.]+\.so|ld\.so[\d.]*|ld64\.so\.\d")
LOADER_VALUES = (
    "--library-path",
    "--preload",
    "--argv0",
    "--audit",
    "--inhibit-rpath",
    "--glibc-hwcaps-prepend",
)
# One file with several names (Debian: redis-server is a link to redis-check-rdb): argv[0] says which.
MULTINAME = re.compile(r"(redis|valkey|keydb)-[\w-]+")
MULTICALL = ("busybox", "toybox", "busybox.static")


class Program(NamedTuple):
    """exe: the executable's path, "" if it cannot be read. name: its base name, or the applet's, or comm."""

    exe: str
    name: str
    family: str  # "python", "java", ...; "" for a program of its own
    args: tuple[str, ...]  # without the first; empty if the program has written a title over them
    title: str  # that title, else ""
    cwd: str


def family_of(name: str) -> str:
    """The interpreter's family of an executable's name, "" if it is none."""
    match = FAMILY.fullmatch(name)
    return match.lastgroup or "" if match else ""


def is_interpreter(name: str) -> bool:
    """Whether an executable of this name says nothing of what it runs. php-fpm and uwsgi are servers, too."""
    return family_of(name) not in ("", "phpfpm", "uwsgi")


def unwrapped(path: str) -> str:
    """The base name without what packagers put round it: `.shop-wrapped` (Nix), `memfd:shop`."""
    name = base(path).removeprefix("memfd:")
    if name.startswith(".") and name.endswith("-wrapped"):
        name = name[1:-8]
    return name


def program(exe: str, argv: tuple[str, ...], cwd: str, comm: str) -> Program:
    """Takes the command line apart. argv may be empty (no rights, a thread of the kernel)."""
    name = unwrapped(exe) if exe else ""
    if LOADER.fullmatch(name) and len(argv) > 1:
        exe, name, argv = _loaded(exe, name, argv)
    if not name:
        first = argv[0].split(None, 1)[0] if argv and argv[0].strip() else ""
        name = base(first).lstrip("-").rstrip(":") or comm
        if family_of(comm) and not family_of(name):
            name = comm  # an interpreter with a title
    several = MULTINAME.fullmatch(name)
    if several and argv and argv[0].strip():
        called = base(argv[0].split(None, 1)[0])
        name = called if called.startswith(several[1] + "-") else name
    if name in MULTICALL and argv:
        applet = base(argv[0]).lstrip("-")
        if applet in MULTICALL and len(argv) > 1:
            applet, argv = argv[1], argv[1:]
        name = applet or name
    family = family_of(name)
    args, title = argv[1:], ""
    if family and len(argv) == 1:
        words = argv[0].split()
        if words and family_of(base(words[0]).lstrip("-")) != family:
            title = argv[0].strip()
        elif len(words) > 1 and argv[0] != exe:
            args = tuple(words[1:])  # pm2: the command line in one piece
    return Program(exe, name, family, args, title, cwd)


def _loaded(exe: str, name: str, argv: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    """`ld.so [options] program arguments`."""
    i = 1
    while i < len(argv) and argv[i].startswith("--"):
        i += 2 if argv[i] in LOADER_VALUES else 1
    if i == len(argv):
        return exe, name, argv
    return argv[i], unwrapped(argv[i]), argv[i:]

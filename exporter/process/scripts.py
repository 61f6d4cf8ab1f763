"""Names of programs in PHP, Perl, shells, .NET, Erlang and further interpreters, and of uWSGI. Called by
names.py.
"""

import re
from collections.abc import Callable

from zerospan.exporter.process.arguments import NONE, option, script_at
from zerospan.exporter.process.program import Program
from zerospan.exporter.process.python import APP
from zerospan.exporter.process.text import base, beside, folder, stem, word, words

POOL = re.compile(r"php-fpm: pool (\S+)")
GENERIC = words(
    """
    index main server app run start console artisan router init
    """
)
SHELL_GENERIC = frozenset(("entrypoint", "docker-entrypoint", "run", "start", "main", "init"))
DEFAULT_POOLS = ("www", "default")


def php_fpm(p: Program) -> str:
    """The pool, unless it is the one that every installation has."""
    match = POOL.match(p.title)
    pool = word(match[1]) if match else ""
    return pool if pool and pool not in DEFAULT_POOLS else "php-fpm"


def php(p: Program) -> str:
    """A script, or the folder that PHP's own server serves."""
    if p.title:
        return _lead(p.title)
    if "-S" in p.args:
        return folder(option(p.args, "-t") or ".", p.cwd)
    values = frozenset(("-c", "-d", "-z"))
    script = option(p.args, "-f") or _found(p, values, frozenset(("-r", "-B", "-R", "-a", "-i", "-v")), (".php",))
    return _named(p, script, GENERIC)


def perl(p: Program) -> str:
    """A script; a title (starman, hypnotoad) by its first word."""
    if p.title:
        return _lead(p.title)
    values = frozenset(("-I", "-M", "-m"))
    return _named(p, _found(p, values, frozenset(("-e", "-E", "-ne", "-pe", "-v")), (".pl", ".psgi")), GENERIC)


def shell(p: Program) -> str:
    """A script; never what stands behind -c."""
    for arg in p.args:
        if arg.startswith("-") and not arg.startswith("--") and ("c" in arg or "s" in arg):
            return ""
        if not arg.startswith(("-", "+")):
            break
    stops = frozenset(("--command", "--version", "--help"))
    script = _found(p, frozenset(("-o", "+o", "-O", "+O", "--rcfile", "--init-file")), stops, (".sh",))
    return _named(p, script, SHELL_GENERIC)


def dotnet(p: Program) -> str:
    """An assembly: `dotnet Shop.Api.dll`, `dotnet exec Shop.Api.dll`, `mono Shop.exe`; else the project's
    folder.
    """
    for arg in p.args:
        if arg.endswith((".dll", ".exe")) and not arg.startswith("-"):
            return stem(arg)
    if p.args and p.args[0] in ("run", "watch"):
        project = option(p.args, "--project", "-p")
        return (folder(project.removesuffix(".csproj"), p.cwd) if project else "") or folder(p.cwd)
    return ""


def beam(p: Program) -> str:
    """An Erlang node's name. Its arguments hold the cookie, a secret: nothing else is looked at."""
    node = ""
    for flag, value in zip(p.args, p.args[1:], strict=False):  # there are several `--` among them
        if flag in ("-sname", "-name"):
            node = value.partition("@")[0]
    if node == "rabbit" or "rabbit" in p.args:
        return "rabbitmq"
    return word(node)


def uwsgi(p: Program) -> str:
    """The module, file or configuration that uWSGI was given."""
    if not p.title:
        match = APP.fullmatch(option(p.args, "--module", "-w", "--wsgi"))
        if match:
            parts = [part for part in match[1].split(".") if part not in ("wsgi", "app", "main", "application")]
            return (word(parts[-1]) if parts else "") or folder(option(p.args, "--chdir") or p.cwd) or "uwsgi"
        for given in (option(p.args, "--wsgi-file", "--file"), option(p.args, "--ini", "--yaml")):
            found = stem(given)
            if found and found not in ("uwsgi", "wsgi", "app", "main"):
                return found
    return folder(option(p.args, "--chdir") or p.cwd) or "uwsgi"


def script(p: Program) -> str:
    """The script of an interpreter without profile of its own (Lua, R, Julia, Tcl, Guile)."""
    given = option(p.args, "--file", "-f")
    return _named(p, given or _found(p, NONE, frozenset(("-e", "-E", "--eval", "-l", "-v")), (".lua", ".R")), GENERIC)


def _found(p: Program, values: frozenset[str], stops: frozenset[str], suffixes: tuple[str, ...]) -> str:
    at = script_at(p.args, values=values, stops=stops, suffixes=suffixes)
    return p.args[at] if at >= 0 else ""


def _named(p: Program, path: str, generic: frozenset[str]) -> str:
    found = stem(path)
    return beside(path, p.cwd) or found if found.lower() in generic else found


def _lead(title: str) -> str:
    match = re.match(r"\W{0,3}(\w[\w.+-]*)", title)
    return word(base(match[1])) if match else ""


NAMERS: dict[str, Callable[[Program], str]] = {
    "phpfpm": php_fpm,
    "php": php,
    "perl": perl,
    "shell": shell,
    "dotnet": dotnet,
    "beam": beam,
    "uwsgi": uwsgi,
    "script": script,
}

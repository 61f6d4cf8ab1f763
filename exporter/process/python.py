"""Names of Python programs. Called by names.py.

Python's own options: "Command line and environment" of its documentation. Those of gunicorn, uvicorn,
hypercorn and daphne take a value unless they are listed here.
"""

import re
from collections.abc import Sequence

from zerospan.exporter.process.arguments import option, positionals
from zerospan.exporter.process.program import Program
from zerospan.exporter.process.text import base, beside, folder, stem, word, words

APP = re.compile(r"([A-Za-z_][\w.]*)(?::[\w.]+(?:\(.*\))?)?", re.DOTALL)
CODE_OF_CHILD = "from multiprocessing."
GENERIC_MODULES = words(
    """
    main wsgi asgi app application server run runner start cli manage index src api web service core celery
    celery_app config settings
    """
)
GENERIC_SCRIPTS = words(
    """
    __main__ main wsgi asgi run start index manage
    """
)
WHOLE_MODULES = frozenset(("http.server", "wsgiref.simple_server", "xmlrpc.server"))
SERVERS = frozenset(("gunicorn", "uvicorn", "hypercorn", "daphne", "waitress-serve", "waitress"))
RUNNERS = words(
    """
    debugpy coverage pdb cProfile profile trace scalene memray
    """
)
RUNS_SCRIPT = frozenset(("streamlit", "fastapi", "chainlit", "bokeh", "panel", "sanic"))
TITLES = re.compile(r"gunicorn: [\w ]+\[(.+)\]", re.DOTALL)
CELERY_APP = re.compile(r"(?:-A[ =]?|--app[ =])([A-Za-z_][\w.]*)")
SERVER_FLAGS = words(
    """
    --reload --no-reload --preload --daemon -D -R --capture-output --spew --check-config --print-config
    --no-sendfile --enable-stdio-inheritance --log-syslog --disable-redirect-access-to-syslog --proxy-protocol
    --strip-header-spaces --initgroups --suppress-ragged-eofs --do-handshake-on-connect --reuse-port
    --casefold-http-method --permit-unconventional-http-method --permit-unconventional-http-version
    --no-control-socket --permit-obsolete-folding --proxy-headers --no-proxy-headers --access-log
    --no-access-log --use-colors --no-use-colors --factory --server-header --no-server-header --date-header
    --no-date-header --version -v --help -h --debug --no-server-name --no-date --call --expose-tracebacks
    --no-expose-tracebacks --reset-contextvars-per-request --no-ipv4 --ipv4 --ipv6 --no-ipv6
    --log-untrusted-proxy-headers --clear-untrusted-proxy-headers
    """
)


def command(args: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """(kind, what, its arguments); kind is "script", "module", "code" or "" (a prompt, standard input)."""
    i = 0
    while i < len(args):
        arg = args[i]
        i += 1
        if arg == "--":
            break
        if arg == "-" or arg == "":
            return "", "", ()
        if not arg.startswith("-"):
            return "script", arg, args[i:]
        if arg.startswith("--"):
            i += arg == "--check-hash-based-pycs"
            continue
        for at, letter in enumerate(arg[1:], 2):
            rest = arg[at:]
            if letter in "cm":
                kind = "code" if letter == "c" else "module"
                if rest:
                    return kind, rest, args[i:]
                return (kind, args[i], args[i + 1 :]) if i < len(args) else ("", "", ())
            if letter in "WX":
                i += not rest
                break
    return ("script", args[i], args[i + 1 :]) if i < len(args) else ("", "", ())


def tool(p: Program) -> tuple[str, Sequence[str]]:
    """The name of the program that Python runs (`gunicorn`, `shop`), and its arguments."""
    kind, what, args = command(p.args)
    if kind == "module":
        return what.partition(".")[0], args
    return (stem(what) if kind == "script" else ""), args


def is_child(p: Program) -> bool:
    """A process that multiprocessing has spawned: it is what its parent is."""
    kind, what, _ = command(p.args)
    return kind == "code" and what.startswith(CODE_OF_CHILD)


def name(p: Program) -> str:
    """The name of a Python program, "" if nothing tells."""
    if p.title:
        return _titled(p)
    return _run(p, *command(p.args))


def _run(p: Program, kind: str, what: str, args: Sequence[str]) -> str:
    if kind not in ("script", "module"):
        return ""
    runs = what.partition(".")[0] if kind == "module" else stem(what)
    if runs in SERVERS:
        return _served(p, runs, args)
    if runs == "celery":
        return _module(option(args, "-A", "--app"), p.cwd) or "celery"
    if runs == "flask":
        return _app(option(args, "--app", "-A"), p.cwd) or folder(p.cwd) or "flask"
    if runs == "django-admin" or (runs == "django" and kind == "module"):
        return folder(option(args, "--pythonpath") or p.cwd, p.cwd) or "django"
    if runs == "twistd":
        return stem(option(args, "-y", "--python")) or "twistd"
    if runs in RUNS_SCRIPT or runs in RUNNERS:
        for i, arg in enumerate(args):
            if arg == "-m" and runs in RUNNERS:
                return _run(p, *command(args[i:])) or runs
            if arg.endswith(".py"):
                return _run(p, "script", arg, args[i + 1 :]) or runs
        return runs
    if kind == "module":
        return what if what in WHOLE_MODULES else _module(what, p.cwd)
    if runs in GENERIC_SCRIPTS or not runs:
        return beside(what, p.cwd) or (runs if runs != "__main__" else "")
    return runs


def _served(p: Program, server: str, args: Sequence[str]) -> str:
    where = option(args, "--chdir", "--app-dir") or p.cwd
    given = option(args, "--name", "-n") if server == "gunicorn" else ""
    if word(given):
        return given
    for arg in positionals(args, SERVER_FLAGS):
        named = _app(arg, folder_of(where, p.cwd))
        if named:
            return named
        break  # what follows are settings of the application
    return folder(where, p.cwd) or server


def folder_of(where: str, cwd: str) -> str:
    """`where`, relative to `cwd`."""
    return where if where.startswith("/") else f"{cwd}/{where}"


def _app(spec: str, cwd: str) -> str:
    """`module:app`, `module:create_app("...")` or `path/to/file.py`: what stands before the colon."""
    if spec.endswith(".py"):
        found = stem(base(spec))
        return beside(spec, cwd) or found if found in GENERIC_MODULES else found
    match = APP.fullmatch(spec)
    return _module(match[1], cwd) if match else ""


def _module(dotted: str, cwd: str) -> str:
    """The last part of a module's name that means something, else the folder, else its first part."""
    parts = [part for part in dotted.split(".") if word(part) and not part.startswith("__")]
    for part in reversed(parts):
        if part.lower() not in GENERIC_MODULES:
            return part
    return (folder(cwd) or parts[0]) if parts else ""


def _titled(p: Program) -> str:
    match = TITLES.match(p.title)
    if match:
        spec = match[1].strip()
        return _app(spec, p.cwd) or word(spec) or "gunicorn"
    if "celery" in p.title[:16]:
        match = CELERY_APP.search(p.title)
        return _module(match[1], p.cwd) if match else "celery"
    match = re.match(r"[^\w]{0,3}(\w[\w.+-]*)", p.title)
    return word(match[1].rstrip(".")) if match else ""

"""Names of JavaScript programs: node, deno, bun. Called by names.py. Options: `node --help`, version 24."""

import re
from collections.abc import Sequence

from zerospan.exporter.process.arguments import script_at
from zerospan.exporter.process.program import Program
from zerospan.exporter.process.text import base, beside, folder, stem, word, words

SUFFIXES = (".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx")
VALUES = words(
    """
    -r --require --import --loader --experimental-loader -C --conditions --env-file --env-file-if-exists
    --input-type --inspect-port --debug-port --title --icu-data-dir --openssl-config --redirect-warnings
    --diagnostic-dir --dns-result-order --max-http-header-size --unhandled-rejections --stack-trace-limit
    --tls-cipher-list --max-old-space-size --max-semi-space-size --trace-event-categories --disable-warning
    """
)
FLAGS = words(
    """
    --inspect --inspect-brk --inspect-wait --watch --no-warnings --trace-warnings --enable-source-maps
    --expose-gc --experimental-vm-modules --preserve-symlinks --no-deprecation --trace-deprecation
    --throw-deprecation --use-strict --prof --experimental-strip-types --experimental-specifier-resolution
    --trace-uncaught --abort-on-uncaught-exception --harmony --use-openssl-ca --use-system-ca
    """
)
STOPS = words(
    """
    -e --eval -p -pe --print -i --interactive --test --run -v
    """
)
GENERIC = words(
    """
    index server app main start www bootstrap cli run bundle entry application standalone entrypoint boot init
    worker-entry .
    """
)
MANAGERS = words(
    """
    npm npm-cli yarn yarnpkg pnpm corepack lerna nx turbo rush
    """
)
FRAMEWORKS = words(
    """
    next next-server nuxt nuxi nest vite webpack react-scripts remix remix-serve astro gatsby ng svelte-kit
    strapi medusa vue-cli-service
    """
)
RUNNERS = words(
    """
    ts-node tsx nodemon ts-node-dev tsnd babel-node forever npx-cli npx
    """
)


def name(p: Program) -> str:
    """The name of a JavaScript program, "" if nothing tells."""
    if p.title:
        return _titled(p)
    if p.family == "node":
        at = script_at(p.args, values=VALUES, flags=FLAGS, stops=STOPS, suffixes=SUFFIXES)
        return _script(p, p.args[at], p.args[at + 1 :]) if at >= 0 else ""
    return _deno_or_bun(p)


def _deno_or_bun(p: Program) -> str:
    if p.args and p.args[0] in ("eval", "-e", "--eval", "-p", "--print", "repl"):
        return ""
    if p.args and p.args[0] == "task":
        return folder(p.cwd)
    for arg in p.args:
        if arg == "--":
            break
        if not arg.startswith("-") and base(arg).endswith(SUFFIXES):
            return _script(p, arg, ())
    return folder(p.cwd) if p.args else ""


def _script(p: Program, script: str, args: Sequence[str]) -> str:
    package = _package(script)
    found = package or stem(script)
    if found in MANAGERS or found in FRAMEWORKS:
        return folder(p.cwd) or found
    if found in RUNNERS:
        for i, arg in enumerate(args):
            if not arg.startswith("-") and (base(arg).endswith(SUFFIXES) or arg == "."):
                return _script(p, arg, args[i + 1 :])
        return folder(p.cwd) or found
    if package:
        return package
    if script.strip("./") == "" or not found:
        return folder(script, p.cwd)
    if found.lower() in GENERIC and "://" not in script:
        return beside(script, p.cwd) or found
    return found


def _package(script: str) -> str:
    """The package that a script below node_modules belongs to, "" for a script of one's own."""
    _, found, rest = script.rpartition("node_modules/")
    if not found:
        return ""
    parts = [part for part in rest.split("/") if part]
    if len(parts) > 1 and (parts[0].startswith("@") or parts[0] == ".bin"):
        parts = parts[1:]
    return stem(parts[0]) if parts else ""


def _titled(p: Program) -> str:
    match = re.match(r"\W{0,3}(\w[\w.+-]*)", p.title)
    first = word(match[1]) if match else ""
    if first in MANAGERS or first in FRAMEWORKS:
        return folder(p.cwd) or first
    return first.lower() if first.startswith("PM2") else first

"""Walking over the arguments of other people's programs, whose options we know only in part.

The rule that keeps secrets out of names: what follows an option that we do not know may be its value, and is
not taken for a script unless it looks like one. Used by the files of each language.
"""

from collections.abc import Collection, Iterator, Sequence

NONE: frozenset[str] = frozenset()


def option(args: Sequence[str], *names: str) -> str:
    """The value of the first of these options: `--name value`, `--name=value`, `-n value`, `-nvalue`; else
    "".
    """
    for i, arg in enumerate(args):
        if arg == "--":
            break
        if arg in names:
            return args[i + 1] if i + 1 < len(args) else ""
        for name in names:
            if arg.startswith(name):
                if arg[len(name)] == "=":
                    return arg[len(name) + 1 :]
                if len(name) == 2 and not arg.startswith("--"):
                    return arg[2:]
    return ""


def positionals(args: Sequence[str], flags: Collection[str]) -> Iterator[str]:
    """The arguments that are no options, for a program whose options take a value unless they are `flags`."""
    i = 0
    while i < len(args):
        arg = args[i]
        i += 1
        if arg == "--":
            yield from args[i:]
            return
        if not arg.startswith("-") or arg == "-":
            yield arg
        elif arg not in flags and "=" not in arg and (arg.startswith("--") or len(arg) == 2):
            i += 1


def script_at(
    args: Sequence[str],
    *,
    values: Collection[str] = NONE,
    flags: Collection[str] = NONE,
    stops: Collection[str] = NONE,
    suffixes: tuple[str, ...] = (),
) -> int:
    """Index of the script among an interpreter's arguments; -1 if there is none or it cannot be told.

    values: options with a value in the next argument; flags: long options without; stops: options after which
    no script comes (code is given instead). After an unknown long option only an argument with a suffix
    counts.
    """
    i = 0
    doubtful = False
    while i < len(args):
        arg = args[i]
        if arg == "--":
            i += 1
            return i if i < len(args) and not doubtful else -1
        if arg == "-":
            return -1
        if not arg.startswith("-"):
            if not doubtful or arg.endswith(suffixes):
                return i
        elif arg.partition("=")[0] in stops:
            return -1
        elif arg in values:
            i += 1
        elif arg.startswith("--") and "=" not in arg and arg not in flags:
            doubtful = True
        i += 1
    return -1

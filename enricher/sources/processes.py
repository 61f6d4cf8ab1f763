"""What a process of this host is: asked for one by one, nothing is kept. The agent's own describer reads /proc.

Over that: the command line with masked arguments, chosen environment variables (opt-in), and all tags of the container,
pod or host that it runs in. Used by os.py, for `zerospan enricher lookup PID` and HTTP.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from zerospan.enricher import keys
from zerospan.enricher.names import SERVICE_NAME
from zerospan.enricher.store import TagStore
from zerospan.exporter.config.model import Config, Service
from zerospan.exporter.process import Describer, procfs
from zerospan.exporter.process.containers import Containers
from zerospan.exporter.process.environ import stated
from zerospan.exporter.process.names import UNKNOWN
from zerospan.exporter.process.program import Program, program
from zerospan.exporter.process.text import clean, decode

ServiceWord = Literal["env", "kubernetes", "systemd", "container", "executable"]
ServiceOrder: Final[tuple[ServiceWord, ...]] = ("env", "kubernetes", "systemd", "container", "executable")
OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9-]*")  # its name may be seen; what is after "=" may not
SCRIPT = re.compile(r"[\w./+@-]+\.(?:pyc?|js|mjs|cjs|ts|rb|php|pl|jar|war|dll|sh|lua)")
ENV_MAX, VALUE_MAX, LINE_MAX = 64, 1024, 1024  # variables, characters
# Of the agent, not of a process that is looked up.
FOREIGN = ("telemetry.sdk.name", "telemetry.sdk.version")


class HostProcesses:
    """host: tags of this host. env: globs of variables. order: as `service.order` of the agent."""

    def __init__(
        self,
        store: TagStore,
        files: Containers,
        node: str,
        *,
        proc: str,
        host: Callable[[], Mapping[str, str]],
        env: Sequence[str] = (),
        order: Sequence[ServiceWord] = ServiceOrder,
    ) -> None:
        self._store, self._node, self._proc, self._host = store, node, proc, host
        self._env = [re.compile(fnmatch.translate(glob)).match for glob in env]
        config = Config(service=Service(order=tuple(order)))
        name = host().get("host.name") or None
        self._describer = Describer(config, hidden=set(), host=name, proc=proc, containers=files)
        self._asks_kubernetes = "kubernetes" in order
        self._before = tuple(order[: order.index("kubernetes")]) if self._asks_kubernetes else ()

    def lookup(self, pid: int) -> dict[str, str] | None:
        """All tags; None if there is no such process."""
        own = self._describer.attributes(pid)
        if own is None:
            return None
        tags = {key: str(value) for key, value in own.items() if key not in FOREIGN}
        container = tags.get("container.id", "")
        under = self._store.find(keys.container(container)) if container else None
        if under is None:
            under = self._store.find(keys.node(self._node))
        below = dict(self._host()) | (under.tags() if under is not None else {})
        if below.get("k8s.pod.name"):
            if below.get("service.instance.id") and tags["service.instance.id"].endswith(f":{pid}"):
                tags["service.instance.id"] = below["service.instance.id"]
            if below.get(SERVICE_NAME) and self._asks_kubernetes and not self._named(pid, tags[SERVICE_NAME]):
                tags[SERVICE_NAME] = below[SERVICE_NAME]
        tags = {**below, **tags, **{key: below[key] for key in ("host.name", "host.id") if below.get(key)}}
        folder = f"{self._proc}/{pid}"
        argv = procfs.command_line(folder)
        p = program(procfs.link(f"{folder}/exe"), argv, procfs.link(f"{folder}/cwd"), "")
        tags["process.command_line"] = masked(argv, p)
        tags |= self._environment(folder)
        return {key: value for key, value in tags.items() if value}

    def _named(self, pid: int, name: str) -> bool:
        """Whether a word that stands before `kubernetes` names the service; in a pod that can be two of them only."""
        if "env" in self._before and stated(procfs.read(f"{self._proc}/{pid}/environ", procfs.ENVIRON_MAX)).service:
            return True
        return "executable" in self._before and not name.startswith(UNKNOWN)

    def _environment(self, folder: str) -> dict[str, str]:
        if not self._env:
            return {}
        found: dict[str, str] = {}
        for pair in procfs.read(f"{folder}/environ", procfs.ENVIRON_MAX).split(b"\0"):
            name, equals, value = pair.partition(b"=")
            key = clean(decode(name))
            if equals and key and len(found) < ENV_MAX and any(match(key) for match in self._env):
                found["zerospan.process.env." + key] = clean(decode(value), VALUE_MAX)
        return found


def masked(argv: Sequence[str], p: Program) -> str:
    """The command line: the program, long options' names, the script of an interpreter; all else is `?`.

    The script is the first argument that looks like one, or what stands after -m or -jar.
    """
    if not argv:
        return ""
    if p.title or len(argv) == 1:
        return clean(argv[0].split(None, 1)[0] if argv[0].strip() else "", LINE_MAX)
    shown = [argv[0].split(None, 1)[0] if argv[0].strip() else "?"]
    script = not p.family
    before = ""
    for arg in argv[1:]:
        name, equals, _ = arg.partition("=")
        if OPTION.fullmatch(name):
            shown.append(name + ("=?" if equals else ""))
        elif not script and (before in ("-m", "-jar") or SCRIPT.fullmatch(arg)) and re.fullmatch(r"[\w./+@-]+", arg):
            shown.append(arg)
            script = True
        elif not script and arg in ("-m", "-jar", "-c", "-e"):
            shown.append(arg)
            script = arg in ("-c", "-e")
        else:
            shown.append("?")
        before = arg
    return clean(" ".join(shown), LINE_MAX)

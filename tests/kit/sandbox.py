"""What systemd makes of a unit's [Service] before it starts the program, made again with no systemd running.

    with Sandbox(ROOT / "deploy/systemd/zerospan.service", {"/etc/zerospan": etc, "/run/zerospan": run}) as box:
        process = subprocess.Popen(box.argv([...]), env=box.env())

Mounts of its own, read-only where the unit says so; the unit's user (any free number stands for it), bounding and
ambient capabilities by setpriv; no new privileges; system calls and address families by libseccomp, the sets of system
calls as `systemd-analyze syscall-filter` lists them. systemd.exec(5). A key that is neither made again here nor known
to limit nothing that a test can see is an error, so that none is taken for tried. Root. Used by tests/net.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UID = 60321  # nobody's
SYS_MOUNT_SETATTR = 442  # x86_64 and arm64
AT_RECURSIVE, MOUNT_ATTR_RDONLY = 0x8000, 1
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
MS_RDONLY, MS_NOSUID, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4096, 16384, 1 << 19
ALLOW, EPERM, EAFNOSUPPORT = 0x7FFF0000, 0x00050001, 0x00050061  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(...)
CMP_MASKED_EQ, CMP_EQ, CMP_GT = 7, 4, 6  # enum scmp_compare
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}
PROT_WRITE, PROT_EXEC = 2, 4
NAMESPACES = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
              "pid": 0x20000000, "net": 0x40000000}  # fmt: skip
# What these keys do stands elsewhere (limits, restarts) or cannot be seen by a program of this kind.
BESIDE = frozenset(
    re.findall(
        r"\w+",
        """
        Type ExecStart Restart RestartSec RestartPreventExitStatus TimeoutStopSec RuntimeDirectoryMode
        RuntimeDirectoryPreserve MemoryMax TasksMax LimitNOFILE LimitMEMLOCK LimitCORE OOMScoreAdjust Group
        ProtectClock ProtectProc ProcSubset PrivateMounts LockPersonality RemoveIPC RestrictRealtime
        RestrictSUIDSGID KeyringMode SystemCallArchitectures SystemCallErrorNumber
        """,
    )
)
MADE = frozenset(
    re.findall(
        r"\w+",
        """
        User RuntimeDirectory CapabilityBoundingSet AmbientCapabilities NoNewPrivileges ProtectSystem ProtectHome
        PrivateTmp PrivateDevices ProtectHostname ProtectControlGroups ProtectKernelLogs ProtectKernelModules
        ProtectKernelTunables MemoryDenyWriteExecute RestrictNamespaces RestrictAddressFamilies UMask
        SystemCallFilter
        """,
    )
)

libc = ctypes.CDLL(None, use_errno=True)


def service(*files: Path) -> dict[str, list[str]]:
    """The [Service] of a unit and its drop-ins: key -> values, in their order."""
    found: dict[str, list[str]] = {}
    for file in files:
        section = ""
        for line in file.read_text().splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and not line.startswith(("#", ";")):
                key, _, value = line.partition("=")
                found.setdefault(key, []).append(value)
    return found


def words(unit: Mapping[str, Sequence[str]], key: str) -> list[str]:
    """All words of a key that adds up."""
    return [word for value in unit.get(key, ()) for word in value.split()]


def system_calls(lines: Sequence[str]) -> set[str]:
    """The names that SystemCallFilter= lines allow: the first is a list of what may be, `~` takes away."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    sets: dict[str, list[str]] = {}
    for line in text.stdout.splitlines():
        if line.startswith("@"):
            of = sets[line.split()[0]] = []
        elif (word := line.strip()) and not word.startswith("#") and sets:
            of.append(word)

    def names(word: str) -> set[str]:
        return {name for one in sets[word] for name in names(one)} if word.startswith("@") else {word}

    allowed = names("@default")
    for line in lines:
        listed = {name for word in line.lstrip("~").split() for name in names(word)}
        allowed = allowed - listed if line.startswith("~") else allowed | listed
    return allowed


class Sandbox:
    """unit: its file; drop_ins: files over it; places: path in the sandbox -> folder that stands there."""

    def __init__(self, unit: Path, places: Mapping[str, Path], *drop_ins: Path) -> None:
        self.unit = service(unit, *drop_ins)
        unknown = self.unit.keys() - MADE - BESIDE
        assert not unknown, f"not made by tests/kit/sandbox.py: {', '.join(sorted(unknown))}"
        self.places = {path: str(folder) for path, folder in places.items()}
        runtime = [f"/run/{name}" for name in words(self.unit, "RuntimeDirectory")]
        assert set(runtime) <= self.places.keys(), f"say where {runtime} is"
        for path in runtime:  # RuntimeDirectoryMode
            os.chown(self.places[path], UID, UID)
            os.chmod(self.places[path], 0o700)
        self.writable = runtime
        self._made: list[str] = []

    def __enter__(self) -> Sandbox:
        for path in self.places:
            if not os.path.isdir(path):
                os.mkdir(path)
                self._made.append(path)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the sandbox. Its process is the one that is started."""
        told = {"unit": self.unit, "places": self.places, "writable": self.writable}
        return [sys.executable, str(Path(__file__).resolve()), "mounts", json.dumps(told), *argv]

    def start_command(self, program: str) -> list[str]:
        """ExecStart with another path of the program."""
        (line,) = self.unit["ExecStart"]
        return [program, *line.split()[1:]]


# -- in the process that becomes the program


def mounts(told: dict[str, Any], argv: list[str]) -> None:
    """Root's part: mounts and name spaces; then setpriv, and ourselves again for `calls`."""
    unit: dict[str, list[str]] = told["unit"]
    flags = CLONE_NEWNS | (CLONE_NEWUTS if _yes(unit, "ProtectHostname") else 0)
    check(libc.unshare(flags), "unshare")
    mount("none", "/", "", MS_REC | MS_SLAVE)
    for path, folder in told["places"].items():
        mount(folder, path, "", MS_BIND)
    temporary = ("/tmp", "/var/tmp") if _yes(unit, "PrivateTmp") else ()
    home = unit.get("ProtectHome", ["no"])[-1]
    homes = [path for path in ("/home", "/root", "/run/user") if home == "yes" and os.path.isdir(path)]
    tree = os.open(ROOT, os.O_PATH)
    for path in (*temporary, *homes):
        mount("tmpfs", path, "tmpfs", MS_NOSUID)
        os.chmod(path, 0o1777 if path in temporary else 0o755)
    under = [path for path in (*temporary, *homes) if ROOT.is_relative_to(path)]
    if under:  # the programs to be tried lie where a unit sees nothing; an installed one does not
        os.makedirs(ROOT, 0o755)
        mount(f"/proc/self/fd/{tree}", str(ROOT), "", MS_BIND)
    os.close(tree)
    for key, hidden in (
        ("ProtectKernelTunables", ("/proc/kallsyms", "/proc/kcore")),
        ("ProtectKernelLogs", ("/proc/kmsg",)),
    ):
        for path in filter(os.path.exists, hidden if _yes(unit, key) else ()):
            mount("/dev/null", path, "", MS_BIND)  # systemd's has mode 0: all the more
    if _yes(unit, "ProtectKernelModules") and os.path.isdir("/usr/lib/modules"):
        mount("tmpfs", "/usr/lib/modules", "tmpfs", MS_RDONLY)
    assert unit["ProtectSystem"] == ["strict"]
    set_read_only("/", True)
    for path in ("/dev", "/proc", "/sys"):
        set_read_only(path, False)
    if _yes(unit, "ProtectKernelTunables"):
        mount("/proc/sys", "/proc/sys", "", MS_BIND | MS_REC)
        set_read_only("/proc/sys", True)
        set_read_only("/sys", True)
    if _yes(unit, "ProtectControlGroups"):
        set_read_only("/sys/fs/cgroup", True)
    if _yes(unit, "PrivateDevices"):
        private_devices()
    for path in (*told["writable"], *temporary):
        set_read_only(path, False)
    if under:
        set_read_only(str(ROOT), True)
    os.chdir("/")
    bounding, ambient = (",".join(["-all", *(f"+{w.removeprefix('CAP_').lower()}" for w in words(unit, key))])
                         for key in ("CapabilityBoundingSet", "AmbientCapabilities"))  # fmt: skip
    assert unit["User"] and _yes(unit, "NoNewPrivileges")
    allowed = json.dumps({"unit": unit, "allowed": sorted(system_calls(unit["SystemCallFilter"]))})
    os.execvp(
        "setpriv",
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", f"--inh-caps={ambient}",
         f"--ambient-caps={ambient}", f"--bounding-set={bounding}", "--no-new-privs", "--pdeathsig=KILL", "--",
         sys.executable, __file__, "calls", allowed, *argv],
    )  # fmt: skip


def private_devices() -> None:
    """/dev with what every program needs; pseudo devices are bound from outside."""
    kept = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]
    handles = {path: os.open(path, os.O_PATH) for path in kept}
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID)
    for path, fd in handles.items():
        open(path, "w").close()
        mount(f"/proc/self/fd/{fd}", path, "", MS_BIND)
        os.close(fd)
    os.mkdir("/dev/shm", 0o1777)
    os.chmod("/dev/shm", 0o1777)


def calls(told: dict[str, Any], argv: list[str]) -> None:
    """The last step before the program: which system calls there are, and with which arguments."""
    unit: dict[str, list[str]] = told["unit"]
    os.umask(int(unit["UMask"][0], 8))
    filters = [Filter(EPERM)]
    for name in told["allowed"]:
        filters[0].rule(ALLOW, name)
    if "RestrictAddressFamilies" in unit:
        families = sorted(FAMILIES[word] for word in words(unit, "RestrictAddressFamilies"))
        more = Filter(ALLOW)
        for family in range(max(FAMILIES.values()) + 1):
            if family not in families:
                more.rule(EAFNOSUPPORT, "socket", (0, CMP_EQ, family, 0))
        more.rule(EAFNOSUPPORT, "socket", (0, CMP_GT, max(FAMILIES.values()), 0))
        filters.append(more)
    if _yes(unit, "MemoryDenyWriteExecute"):
        more = Filter(ALLOW)
        both = PROT_WRITE | PROT_EXEC
        more.rule(EPERM, "mmap", (2, CMP_MASKED_EQ, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            more.rule(EPERM, name, (2, CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC))
        filters.append(more)
    namespaces = unit.get("RestrictNamespaces", ["no"])[-1]
    if namespaces != "no":
        more = Filter(ALLOW)
        allowed = [] if namespaces == "yes" else namespaces.split()
        for kind, flag in NAMESPACES.items():
            if kind not in allowed:
                more.rule(EPERM, "unshare", (0, CMP_MASKED_EQ, flag, flag))
                more.rule(EPERM, "setns", (1, CMP_MASKED_EQ, flag, flag))
        more.rule(EPERM, "setns", (1, CMP_EQ, 0, 0))  # of any kind
        filters.append(more)
    for one in reversed(filters):  # the list last: it has no seccomp(2)
        one.load()
    os.execvp(argv[0], argv)


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Filter:
    """A filter of libseccomp."""

    lib: Any = None

    def __init__(self, default: int) -> None:
        if Filter.lib is None:
            Filter.lib = ctypes.CDLL("libseccomp.so.2")
            Filter.lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self.lib.seccomp_init(default))
        assert self._context.value

    def rule(self, action: int, name: str, *compare: tuple[int, int, int, int]) -> None:
        """A name that this architecture does not have is left out."""
        number = self.lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            args = (_Compare * len(compare))(*(_Compare(*one) for one in compare))
            done = self.lib.seccomp_rule_add_array(self._context, action, number, len(compare), args)
            assert done == 0, (name, done)

    def load(self) -> None:
        done = self.lib.seccomp_load(self._context)
        assert done == 0, f"seccomp_load: {done}"


def mount(source: str, target: str, kind: str, flags: int) -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, None), f"mount {target}")


def set_read_only(path: str, on: bool) -> None:
    """A mount and all below it; a path that is no mount becomes one."""
    if not os.path.ismount(path):
        mount(path, path, "", MS_BIND | MS_REC)
    read_only(path, MOUNT_ATTR_RDONLY if on else 0, recursive=True)


def read_only(path: str, attribute: int, *, recursive: bool) -> None:
    """Of a mount. mount_setattr(2), struct mount_attr"""
    attributes = (ctypes.c_uint64 * 4)(attribute, attribute ^ MOUNT_ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    check(libc.syscall(SYS_MOUNT_SETATTR, -100, path.encode(), flags, attributes, 32), f"mount_setattr {path}")


def check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _yes(unit: Mapping[str, Sequence[str]], key: str) -> bool:
    return unit.get(key, ["no"])[-1] == "yes"


if __name__ == "__main__":
    {"mounts": mounts, "calls": calls}[sys.argv[1]](json.loads(sys.argv[2]), sys.argv[3:])

"""What the machine allows: kernel, rights, limits. For `zerospan check`; reads /proc and /sys only."""

import ctypes
import os
import platform
import resource
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["ok", "info", "warn", "fail"]

# number in /proc/PID/status (include/uapi/linux/capability.h), name, what it is for
CAPABILITIES = (
    (39, "CAP_BPF", "load programs and maps"),
    (38, "CAP_PERFMON", "attach to kernel functions and tracepoints"),
    (19, "CAP_SYS_PTRACE", "names of other users' processes (/proc/PID/exe, cwd, environ)"),
    (2, "CAP_DAC_READ_SEARCH", "names from other users' files and folders"),
    (24, "CAP_SYS_RESOURCE", "locked memory, on kernels before 5.11 only"),
    (12, "CAP_NET_ADMIN", "points at network interfaces (capture.nic)"),
    (13, "CAP_NET_RAW", "points at network interfaces, where the kernel has no tcx"),
    (21, "CAP_SYS_ADMIN", "points at interfaces of other network namespaces"),
)
SYS_ADMIN = 21  # stands for CAP_BPF and CAP_PERFMON
NEEDED, WANTED = ("CAP_BPF", "CAP_PERFMON"), ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
AS_ROOT = "run as root (`sudo zerospan ...`), or give CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
BTF = Path("/sys/kernel/btf/vmlinux")


class Finding(msgspec.Struct, frozen=True):
    """One line of the answer. fix: what to do, where there is something to do."""

    name: str
    state: State
    text: str
    fix: str = ""


def held(status: str | None = None) -> set[str]:
    """Names of the effective capabilities that matter here. status: the text of /proc/self/status."""
    text = Path("/proc/self/status").read_text() if status is None else status
    line = next((line for line in text.splitlines() if line.startswith("CapEff:")), "CapEff:\t0")
    mask = int(line.split()[1], 16)
    names = {name for number, name, _ in CAPABILITIES if mask >> number & 1}
    return names | set(NEEDED) if mask >> SYS_ADMIN & 1 else names


def may_load(names: set[str]) -> bool:
    """Whether these rights suffice to load and attach the programs."""
    return set(NEEDED) <= names


def kernel() -> Finding:
    return Finding("kernel", "ok", f"{platform.release()} {platform.machine()}, {os.cpu_count()} CPUs")


def btf(path: Path = BTF) -> Finding:
    if not path.exists():
        return Finding(
            "BTF",
            "fail",
            f"{path} is missing: the programs cannot be fitted to this kernel",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as Debian, Ubuntu, Fedora and RHEL ship it",
        )
    return Finding("BTF", "ok", f"{path}, {path.stat().st_size >> 10} KiB")


def lockdown(path: Path = Path("/sys/kernel/security/lockdown")) -> Finding | None:
    """Kernel lockdown; "confidentiality" forbids programs to read kernel memory (kernel_lockdown.7)."""
    try:
        mode = path.read_text()
    except OSError:
        return None
    if "[confidentiality]" in mode:
        return Finding(
            "lockdown",
            "fail",
            "confidentiality: BPF programs may not read memory",
            "boot with lockdown=integrity or without it",
        )
    return Finding("lockdown", "ok", mode.partition("[")[2].partition("]")[0] or "none")


def capabilities(names: set[str]) -> list[Finding]:
    out = []
    for _, name, purpose in CAPABILITIES:
        if name in names:
            out.append(Finding(name, "ok", purpose))
        elif name in NEEDED:
            out.append(Finding(name, "fail", f"missing: {purpose}", AS_ROOT))
        elif name in WANTED:
            out.append(Finding(name, "warn", f"missing: {purpose}; services get their names from the command name"))
        else:
            out.append(Finding(name, "info", f"missing: {purpose}"))
    return out


def memlock(names: set[str], release: str | None = None) -> Finding:
    """The limit that kernels before 5.11 put on maps; newer ones count them to the memory cgroup."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    major, _, rest = (platform.release() if release is None else release).partition(".")
    old = (int(major), int("0" + "".join(c for c in rest.partition(".")[0] if c.isdigit()))) < (5, 11)
    if not old:
        return Finding("memlock", "ok", f"{text}; does not matter on this kernel")
    if soft == resource.RLIM_INFINITY or "CAP_SYS_RESOURCE" in names:
        return Finding("memlock", "ok", text)
    return Finding("memlock", "warn", f"{text}: maps count as locked memory on this kernel", "`ulimit -l unlimited`")


def cgroups(root: Path = Path("/sys/fs/cgroup")) -> Finding:
    if (root / "cgroup.controllers").exists():
        return Finding("cgroups", "ok", f"version 2 at {root}")
    if (root / "unified/cgroup.procs").exists():
        return Finding("cgroups", "ok", f"version 1, with version 2 at {root}/unified; --cgroup takes the latter")
    return Finding("cgroups", "info", "no version 2: --cgroup cannot be used")


def libbpf(extension: str) -> Finding:
    """extension: the compiled binding, which is linked with it."""
    try:
        version = ctypes.CDLL(extension).libbpf_version_string
        version.restype = ctypes.c_char_p
        return Finding("libbpf", "ok", str(version().decode()))
    except (OSError, AttributeError) as e:
        return Finding("libbpf", "fail", f"cannot be loaded: {e}", "install libbpf (Debian: libbpf1)")


def facts(names: set[str], extension: str) -> list[Finding]:
    """All of the above, in the order in which people read them."""
    out = [kernel(), btf(), *capabilities(names), memlock(names), cgroups(), libbpf(extension)]
    locked = lockdown()
    return out + ([locked] if locked is not None else [])

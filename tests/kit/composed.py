"""Services of a compose file run without a container runtime: a root of their own, its volumes, user and capabilities.

    service = model["services"]["tempo"]        # as the Compose Specification's loader normalizes it
    process = subprocess.Popen(argv(service, [PROGRAM, *service["command"]], netns, folder, volumes, uid=10001))

The root is an overlay over the machine's, so that every target of a volume can be made; `read_only`, `cap_drop` and
`cap_add`, `user`, `no-new-privileges` are as in the file. `network_mode: host` is a network namespace of the test.
Docker's own seccomp and AppArmor profiles are not made here. Root. Used by tests/e2e/test_compose.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sandbox import CLONE_NEWNS, MOUNT_ATTR_RDONLY, MS_BIND, MS_REC, MS_SLAVE, check, libc, mount, read_only

KNOWN = frozenset(
    re.findall(
        r"\w+",
        """
        image command network_mode pid cgroup userns_mode user read_only cap_drop cap_add restart stop_grace_period
        mem_limit pids_limit security_opt volumes depends_on environment
        """,
    )
)


def argv(
    service: Mapping[str, Any], command: Sequence[str], netns: str, folder: Path, volumes: Path, *, uid: int
) -> list[str]:
    """The command that runs `command` as the service. folder: for its root; volumes: for named volumes, by their names;
    uid: whom the image runs as, where the service does not say.
    """
    unknown = service.keys() - KNOWN
    assert not unknown, f"not made by tests/kit/composed.py: {unknown}"
    assert service["network_mode"] == "host" and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    uid = int(service["user"].partition(":")[0]) if "user" in service else uid
    binds = []
    for volume in service.get("volumes", ()):
        source = volume["source"]
        if volume["type"] == "volume":
            source = str(volumes / source)
            os.makedirs(source, exist_ok=True)
            os.chown(source, uid, uid)
        assert os.path.exists(source), f"{source} is mounted, and is not there"
        binds.append((source, volume["target"], bool(volume.get("read_only"))))
    folder.mkdir()
    told = {
        "root": str(folder), "binds": binds, "read_only": bool(service.get("read_only")), "uid": uid,
        "capabilities": service.get("cap_add", []),
    }  # fmt: skip
    me = [sys.executable, str(Path(__file__).resolve()), json.dumps(told), *command]
    return ["nsenter", f"--net=/run/netns/{netns}", "--", *me]


def run(told: Mapping[str, Any], command: Sequence[str]) -> None:
    """In the process that becomes the program."""
    at = told["root"]
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_SLAVE)
    mount("tmpfs", at, "tmpfs", 0)
    for name in ("upper", "work", "root"):
        os.mkdir(f"{at}/{name}")
    root = f"{at}/root"
    options = f"lowerdir=/,upperdir={at}/upper,workdir={at}/work"
    check(libc.mount(b"overlay", root.encode(), b"overlay", 0, options.encode()), "mount overlay")
    for path in ("/proc", "/sys", "/dev"):
        mount(path, root + path, "", MS_BIND | MS_REC)
    for source, target, _ in told["binds"]:
        inside = root + target
        if os.path.isdir(source):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            Path(inside).touch()
        mount(source, inside, "", MS_BIND)
    for _, target, only_read in told["binds"]:
        if only_read:
            read_only(root + target, MOUNT_ATTR_RDONLY, recursive=False)
    if told["read_only"]:
        read_only(root, MOUNT_ATTR_RDONLY, recursive=False)
    os.chroot(root)
    os.chdir("/")
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in told["capabilities"])])
    os.execvp(
        "setpriv",
        ["setpriv", f"--reuid={told['uid']}", f"--regid={told['uid']}", "--clear-groups", "--inh-caps=-all",
         f"--bounding-set={bounding}", "--no-new-privs", "--pdeathsig=KILL", "--", *command],
    )  # fmt: skip


if __name__ == "__main__":
    run(json.loads(sys.argv[1]), sys.argv[2:])

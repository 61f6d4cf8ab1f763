"""A cgroup (version 2) of the test's own, so that what else runs on the machine is not watched.

The calling process moves into it; its children are born there. Needs root.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def root() -> Path:
    for mount in MOUNTS:
        if (mount / "cgroup.controllers").exists():
            return mount
    raise AssertionError(f"no cgroup version 2 at {' or '.join(map(str, MOUNTS))}")


@contextlib.contextmanager
def own_cgroup(name: str) -> Iterator[str]:
    """Yields the cgroup's path, for `--cgroup`."""
    line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines() if x.startswith("0::"))
    home = root() / line[3:].lstrip("/")
    folder = root() / f"zerospan-test-{name}-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield str(folder)
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # a child that is still going away
            folder.rmdir()

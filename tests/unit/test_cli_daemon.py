"""What a process that runs for long asks of the scheduler."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import threading
from zerospan.exporter.cli.daemon import long_slice
taken = long_slice()
def show():
    print(taken, *open(f"/proc/self/task/{threading.get_native_id()}/sched").read().split("\\n"), sep="\\n")
thread = threading.Thread(target=show)
thread.start()
thread.join()
"""
LINUX = tuple(int(n) for n in re.findall(r"\d+", platform.release())[:2])


def told(*prefix: str) -> str:
    return subprocess.run([*prefix, sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(LINUX < (6, 12) or not Path("/proc/self/sched").exists(), reason="slices came with Linux 6.12")
def test_all_threads_have_the_longest_slice_and_keep_their_niceness() -> None:
    said = told("nice", "-n", "3")
    assert said.startswith("True\n")
    assert re.search(r"se\.slice\s*:\s*100000000$", said, re.M), said
    assert re.search(rf"^prio\s*:\s*{120 + os.nice(0) + 3}$", said, re.M), said


def test_another_policy_is_left_alone() -> None:
    said = told("chrt", "--batch", "0")
    assert said.startswith("False\n")

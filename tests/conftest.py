"""What all tests share: the kit on sys.path, a header that says where they run, nothing else."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "kit"))


def pytest_report_header() -> str:
    btf = "BTF" if Path("/sys/kernel/btf/vmlinux").exists() else "no BTF"
    return f"zerospan: kernel {platform.release()} ({btf}), {'root' if os.geteuid() == 0 else 'not root'}"

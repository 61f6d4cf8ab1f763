"""Python environments for programs under test: made once below .cache/, with packages that the project does not need.

The key of an environment is what is in it; pip's own index and mirrors are used as configured.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "venvs"


def python_with(*packages: str) -> str:
    """Path of an interpreter that has these packages (pip's requirement syntax). Raises CalledProcessError."""
    wanted = "\n".join(sorted(packages))
    home = CACHE / hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    python, done = home / "bin" / "python", home / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
            done.write_text(wanted)
    return str(python)

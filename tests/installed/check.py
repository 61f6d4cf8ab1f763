"""Run by run.sh with the installed wheel's Python, away from the source tree."""

import importlib
import pkgutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

root = Path(sys.argv[1])

import zerospan.exporter  # noqa: E402

assert not Path(zerospan.exporter.__file__).is_relative_to(root), zerospan.exporter.__file__

modules = [m.name for m in pkgutil.walk_packages(zerospan.__path__, "zerospan.")]
assert len(modules) > 40, modules
for name in modules:
    if name.endswith("otlp_grpc"):  # grpcio is an extra
        continue
    importlib.import_module(name)

objects = sorted(p.name for p in (files("zerospan.exporter") / "_bpf").iterdir())
assert objects == ["fexit.bpf.o", "nic.bpf.o", "sock_length.bpf.o", "sys_exit.bpf.o"], objects

command = str(Path(sys.executable).parent / "zerospan")
said = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
assert "run" in said and "replay" in said

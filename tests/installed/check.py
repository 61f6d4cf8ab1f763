"""Run by run.sh with the installed wheel's Python, away from the source tree: `check.py ROOT plain|enricher`."""

import importlib
import pkgutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

root, extra = Path(sys.argv[1]), sys.argv[2]

import zerospan.exporter  # noqa: E402

assert not Path(zerospan.exporter.__file__).is_relative_to(root), zerospan.exporter.__file__

modules = [m.name for m in pkgutil.walk_packages(zerospan.__path__, "zerospan.", onerror=lambda name: None)]
assert len(modules) > 40, modules
for name in modules:
    # what needs grpcio, an extra
    if extra == "plain" and (name.endswith("otlp_grpc") or name.startswith("zerospan.enricher")):
        continue
    importlib.import_module(name)

objects = sorted(p.name for p in (files("zerospan.exporter") / "_bpf").iterdir())
assert objects == ["fexit.bpf.o", "nic.bpf.o", "sock_length.bpf.o", "sys_exit.bpf.o"], objects

command = str(Path(sys.executable).parent / "zerospan")
said = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
assert "run" in said and "replay" in said

# without the extra it says what to install; with it, that no enricher is there
asked = [command, "enricher", "lookup", "--unix", "/nonexistent", "10.0.0.1"]
enricher = subprocess.run(asked, capture_output=True, text=True)
assert enricher.returncode == 1, enricher
assert ("zerospan[enricher]" in enricher.stderr) == (extra == "plain"), enricher

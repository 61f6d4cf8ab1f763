"""Compiled modules only; everything declarative lives in pyproject.toml.

ZEROSPAN_EXT=proto.http1,enricher.proxy.rewrite builds only these; ZEROSPAN_CYTHON_DEBUG=1 annotates and traces.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("ZEROSPAN_CYTHON_DEBUG") == "1"
NAMES = [name for name in os.environ.get("ZEROSPAN_EXT", "").split(",") if name]
ONLY = {room + name for name in NAMES for room in ("zerospan.exporter.", "zerospan.")}
ROOT = Path("src/zerospan")
# setuptools rebuilds an extension only when a listed file changed: the C headers must be named.
HEADERS = sorted(str(p) for p in [*Path("bpf/include").glob("*.h"), *Path("exporter").glob("**/*.h")])
# The three that are off complain about what Cython writes, not about what we do.
FLAGS = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare", "-Wno-cast-function-type"]
LIBRARIES = {"zerospan.exporter.source.bpf": ["bpf"]}


def extension(pyx: Path) -> Extension:
    name = "zerospan." + ".".join(pyx.with_suffix("").parts)
    return Extension(
        name,
        [str(ROOT / pyx)],
        include_dirs=["bpf/include", "exporter"],
        depends=HEADERS,
        libraries=LIBRARIES.get(name, []),
        extra_compile_args=FLAGS,
    )


modules = [extension(p.relative_to(ROOT)) for p in sorted(ROOT.glob("*/**/*.pyx"))]
setup(
    ext_modules=cythonize(
        [m for m in modules if not ONLY or m.name in ONLY],
        include_path=["src"],
        annotate=DEBUG,
        nthreads=os.cpu_count() or 1,
        compiler_directives={"language_level": "3", "linetrace": DEBUG},
    )
)

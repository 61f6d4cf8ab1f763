#!/usr/bin/env bash
# Brings a fresh Debian 12 machine to a working .venv/bin/zerospan: Debian packages, a virtual environment, the BPF objects, the
# Cython modules. Repeatable, asks nothing, takes seconds when nothing has changed. Called by `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

tools/packages.sh python3 python3-dev python3-venv gcc libc6-dev make clang clang-format llvm libbpf-dev libelf-dev zlib1g-dev

python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11 (Debian 12 has 3.11)"
if [ ! -x .venv/bin/python ]; then
    say "making .venv"
    "$python" -m venv .venv
fi
stamp=.venv/.zerospan-setup
want=$(sha256sum pyproject.toml tools/requirements.py | sha256sum | cut -c1-16)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    say "installing Python packages"
    .venv/bin/python tools/requirements.py | xargs -d '\n' .venv/bin/python -m pip install -q --disable-pip-version-check
fi

make -s -C bpf
say "building the Cython modules that have changed"
mkdir -p .cache
if ! .venv/bin/python setup.py -q build_ext --inplace -j "$(nproc)" --build-temp .cache/build >.cache/build.log 2>&1; then
    tail -n 40 .cache/build.log >&2
    die "the Cython modules could not be built (whole log: .cache/build.log)"
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || [ ! -x .venv/bin/zerospan ]; then
    # only the links and the entry point: the modules are built above, in place
    ZEROSPAN_EXT=none .venv/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
    printf '%s' "$want" >"$stamp"
fi
.venv/bin/zerospan --version >/dev/null || die "the build did not give a working .venv/bin/zerospan"
say "ready: .venv/bin/zerospan ($(.venv/bin/zerospan --version))"

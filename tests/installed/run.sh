#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment and uses it from a folder where the source tree cannot shadow
# it: imports and the command line, without the extra packages of the enricher and with them. Called by `make test-installed`.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
.venv/bin/python -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w "$work" . >"$work/log" 2>&1 ||
    { tail -n 30 "$work/log" >&2; echo "installed: the wheel could not be built" >&2; exit 1; }
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$work"/zerospan-*.whl
cd "$work"
"$work/venv/bin/python" "$root/tests/installed/check.py" "$root" plain
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$(echo "$work"/zerospan-*.whl)[enricher]"
"$work/venv/bin/python" "$root/tests/installed/check.py" "$root" enricher
echo "installed: ok ($(basename "$work"/zerospan-*.whl))"

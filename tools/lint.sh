#!/usr/bin/env bash
# Lint and types, in one place; quiet when clean. Called by `make lint`.
set -uo pipefail
cd "$(dirname "$0")/.."
bad=0
check() { # check NAME COMMAND...: prints the output and how to repeat it only if it fails
    local name=$1 out
    shift
    out=$("$@" 2>&1) || { printf '%s\n-- %s failed; repeat it with: %s\n' "$out" "$name" "$*" >&2; bad=1; }
}
check ruff .venv/bin/ruff check .
check mypy .venv/bin/mypy
if command -v clang-format >/dev/null; then
    check clang-format clang-format --dry-run -Werror $(git ls-files 'bpf/*.c' 'bpf/*.h')
fi
check shell bash -c 'for f; do bash -n "$f" || exit 1; done' bash tools/*.sh .ci/run demo/setup.sh demo/bookinfo/setup.sh tests/e2e/backends/build.sh tests/e2e/kubernetes/build.sh \
    tests/installed/run.sh tests/kernel/qemu/run.sh
[ $bad = 0 ] && echo "lint: clean"
exit $bad

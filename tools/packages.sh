#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing; asks nothing, says nothing if there is nothing to do.
# Called by tools/setup.sh and `make packages`.
set -euo pipefail
say() { printf 'packages: %s\n' "$*"; }
die() { printf 'packages: %s\n' "$*" >&2; exit 1; }

missing=()
for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

root() { # as root, with sudo where we are not
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else
        die "needs root to install ${missing[*]}: run it as root, or install sudo"; fi
}
say "installing ${missing[*]}"
root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update || say "apt-get update failed; trying on"
root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
    "${missing[@]}" >/dev/null || die "apt-get could not install: ${missing[*]}"

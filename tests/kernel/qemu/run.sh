#!/bin/sh
# Loads the BPF objects in Debian's other kernels, under qemu (TCG: needs no rights), and checks the records there.
#
#   tests/kernel/qemu/run.sh [PACKAGE...]      default: the newest linux-image of 6.1 and 6.12 that apt knows
#
# Kernels are unpacked below .cache/kernels, never installed. Needs qemu-system-x86, busybox-static, cpio, and the
# objects of `make bpf`. A line for each object; leaves with 1 if one is not as the table `expected` says.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=$root/.cache/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in qemu-system-x86_64 busybox cpio gcc; do
	command -v $tool >/dev/null || {
		echo "$tool is missing: apt-get install qemu-system-x86 busybox-static cpio gcc" >&2
		exit 1
	}
done

newest() {
	apt-cache search --names-only "^linux-image-${1}[0-9.+a-z-]*-amd64\$" | cut -d' ' -f1 | grep -v -e cloud -e rt- -e '^linux-image-6.12-' |
		sort -V | tail -1
}

# What each layout must do: the socket tracepoints came with 6.3.
expected() {
	case "$1 $2" in
	"6.1."*" sock_length.bpf.o") echo failed ;;
	*) echo ok ;;
	esac
}

[ $# -gt 0 ] || set -- "$(newest '6[.]1[.]')" "$(newest '6[.]12[.]')"
mkdir -p "$work/tree/bin" "$work/tree/bpf" "$work/tree/proc" "$work/tree/sys" "$work/tree/tmp" "$work/tree/dev" "$cache"
gcc -static -O1 -Wall -Wextra -Werror -I"$root/bpf/include" -o "$work/tree/loader" "$here/loader.c" -lbpf -lelf -lz
cp "$(command -v busybox)" "$work/tree/bin/busybox"
cp "$root"/exporter/_bpf/*.bpf.o "$work/tree/bpf/"
cp "$here/init" "$work/tree/init"
chmod +x "$work/tree/init"
(cd "$work/tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.gz"

wrong=0
for package; do
	if ! ls "$cache/$package"/boot/vmlinuz-* >/dev/null 2>&1; then
		(cd "$work" && apt-get download -qq "$package")
		dpkg-deb --fsys-tarfile "$work/$package"_*.deb | { mkdir -p "$cache/$package" && tar -x -C "$cache/$package" ./boot; }
	fi
	kernel=$(ls "$cache/$package"/boot/vmlinuz-*)
	version=${kernel##*/vmlinuz-}
	timeout 300 qemu-system-x86_64 -accel tcg -m 1024 -nographic -no-reboot -kernel "$kernel" -initrd "$work/initramfs.gz" \
		-append "console=ttyS0 panic=-1 quiet" </dev/null 2>&1 | tr -d '\r' >"$work/console" || true
	if ! grep -q '^END OF RUN' "$work/console"; then
		echo "$version: the run did not come to its end; the console's last lines:"
		tail -20 "$work/console"
		wrong=1
		continue
	fi
	for object in "$work"/tree/bpf/*.bpf.o; do
		name=${object##*/}
		line=$(grep "^RESULT $name " "$work/console" || echo "RESULT $name nothing")
		want=$(expected "$version" "$name")
		case "$line" in
		"RESULT $name $want"*) echo "$version: $name: as expected: ${line#RESULT $name }" ;;
		*)
			echo "$version: $name: expected $want, but: ${line#RESULT $name }"
			grep -v '^RESULT' "$work/console" | tail -40
			wrong=1
			;;
		esac
	done
done
exit $wrong

# Programs from Go modules, with progress: for the two build.sh beside it, which set `cache`, `go_needed` (the highest
# `go` line of their modules) and say(). No program of its own.

die() { say "error: $*"; exit 1; }

# at_least A B: version A is B or later.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]; }

# Sets `go`.
find_go() {
    local candidate found
    for candidate in "$(type -P go || true)" /usr/local/go/bin/go; do
        [[ -n $candidate && -x $candidate ]] || continue
        found=$(cd / && GOTOOLCHAIN=local "$candidate" env GOVERSION) && found=${found#go} || continue
        if at_least "$found" "$go_needed"; then
            go=$candidate
            return
        fi
        # From 1.21 on, Go fetches a later toolchain by itself (module golang.org/toolchain, verified).
        if at_least "$found" 1.21; then
            go=$candidate
            export GOTOOLCHAIN="go$go_needed+auto"
            say "Go $found at $candidate will fetch Go $go_needed"
            return
        fi
        say "Go $found at $candidate is too old"
    done
    die "no Go toolchain. Install Go $go_needed or later (any from 1.21 on will do: it fetches the rest) from" \
        "https://go.dev/dl/ to /usr/local/go, or put it on PATH. Debian 12's golang (1.19) is too old."
}

# compile NAME FOLDER ARGUMENTS...: `go build ARGUMENTS` in the module's folder, its output in the cache's NAME.log.
compile() {
    local name=$1 folder=$2 log=$cache/$1.log started=$SECONDS pid said=0
    shift 2
    [[ -n ${go:-} ]] || find_go
    say "$name: building (log: $log)"
    # The hashes of every module lie in go.sum: no need of the checksum database, which does not know all of them.
    (cd "$folder" && exec nice -n 5 env GOFLAGS=-p=2 GOWORK=off "$go" build -v -mod=readonly -buildvcs=false "$@") >"$log" 2>&1 &
    pid=$!
    trap 'kill '"$pid"' 2>/dev/null || true' EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if ((SECONDS - started >= said + 15)); then
            said=$((SECONDS - started))
            say "$name: ${said} s, $(grep -c -v '^go: ' "$log" || true) packages compiled"
        fi
    done
    trap - EXIT
    if ! wait "$pid"; then
        tail -n 20 "$log" >&2
        die "$name does not build; repeat with: cd $folder && go build $*"
    fi
    say "$name: done in $((SECONDS - started)) s"
}

# alone: one build.sh for a cache at a time.
alone() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || { say "waits for another build.sh"; flock 9; }
}

# shellcheck shell=bash
# Shared by the shell tools: where things are, how they speak, how they fail.
# Sourced, never run. Callers have "set -euo pipefail" in force.

# "x=$(f)" fails when a command inside of f fails.
shopt -s inherit_errexit

AIRLOCK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
AIRLOCK_BUILD=${AIRLOCK_BUILD:-build}
# A relative build directory is relative to the repository, not to the caller.
[[ $AIRLOCK_BUILD == /* ]] || AIRLOCK_BUILD=$AIRLOCK_ROOT/$AIRLOCK_BUILD
LOG_DIR=$AIRLOCK_BUILD/logs
export AIRLOCK_ROOT AIRLOCK_BUILD LOG_DIR

say() { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }
warn() { printf '%s: warning: %s\n' "${0##*/}" "$*" >&2; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# usage_from_header: the comment block at the top of the calling script is its
# help text, so the two cannot drift apart.
usage_from_header() {
    awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"
}

need_command() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null ||
            die "'$name' is not installed; run tools/setup as root first"
    done
}

sha256_of() { sha256sum -- "$1" | cut -d' ' -f1; }

# logged NAME COMMAND...: run COMMAND with its output in LOG_DIR/NAME.log; on
# failure show the end of that log and where the rest is.
logged() {
    local log=$LOG_DIR/$1.log
    shift
    mkdir -p "$LOG_DIR"
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        printf '%s: "%s" failed; whole log: %s\n' "${0##*/}" "$1" "$log" >&2
        return 1
    fi
}

# elapsed START: seconds since START (a value of $SECONDS).
elapsed() { printf '%d s' "$((SECONDS - $1))"; }

# set_up_cpp: configure the C++ build, once. Line numbers are enough for a back
# trace; more debug information costs a third of the compile time.
set_up_cpp() {
    local dir=$AIRLOCK_BUILD/cpp
    [[ -f $dir/build.ninja ]] ||
        logged cpp-setup meson setup "$dir" "$AIRLOCK_ROOT" \
            -Dprefix=/usr -Dcpp_args=-g1
}

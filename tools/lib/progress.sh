# shellcheck shell=bash
# Progress of long work that other programs do: a bar on a terminal, a line for
# each fifth otherwise; their whole output in a log. Sourced after common.sh.

# show_progress NAME: reads lines "DONE TOTAL" from standard input.
show_progress() {
    local terminal=0
    [[ ! -t 1 ]] || terminal=1
    awk -v name="$1" -v terminal="$terminal" '
        $2 > 0 {
            percent = int(100 * $1 / $2)
            if (terminal) {
                bar = sprintf("%*s", int(percent * 40 / 100), "")
                gsub(/ /, "#", bar)
                printf "\r  %-15s [%-40s] %3d%%", name, bar, percent
                fflush()
                drawn = 1
            } else if (percent >= next_line) {
                printf "  %s: %d %%\n", name, percent
                fflush()
                next_line = percent - percent % 20 + 20
            }
        }
        END { if (drawn) print "" }'
}

# run_ninja NAME DIRECTORY [ARGUMENT...]: what ninja says is in
# LOG_DIR/NAME-build.log; when it fails, its first errors are shown.
run_ninja() {
    local name=$1 directory=$2 log=$LOG_DIR/$1-build.log
    shift 2
    mkdir -p "$LOG_DIR"
    if NINJA_STATUS='[%f/%t] ' ninja -C "$directory" "$@" 2>&1 | tee "$log" |
        sed -un 's|^\[\([0-9]*\)/\([0-9]*\)\] .*|\1 \2|p' |
        show_progress "$name"; then
        return 0
    fi
    grep -n -A20 -m3 '^FAILED\|error:' "$log" >&2 || tail -n 30 "$log" >&2
    warn "building $name failed; whole log: $log"
    return 1
}

# run_apt NAME ARGUMENT...: apt-get, which tells how far it is in per cent, of
# the download and then of the installation.
run_apt() {
    local name=$1 log=$LOG_DIR/$1.log
    shift
    mkdir -p "$LOG_DIR"
    if apt-get -q -o Dpkg::Use-Pty=0 -o APT::Status-Fd=3 "$@" 3>&1 >"$log" \
        2>&1 | sed -un 's/^\(dl\|pm\)status:[^:]*:\([0-9.]*\):.*/\1 \2/p' |
        awk '{ print $1 == "dl" ? $2 / 2 : 50 + $2 / 2, 100; fflush() }' |
        show_progress "$name"; then
        return 0
    fi
    tail -n 40 "$log" >&2
    warn "apt-get failed; whole log: $log"
    return 1
}

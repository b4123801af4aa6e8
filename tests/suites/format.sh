# shellcheck shell=bash
# format: clang-format, shellcheck, no hosts or private paths in the files
# shellcheck disable=SC2034 # read by tools/check
needs=

tracked() { git -C "$AIRLOCK_ROOT" ls-files -- "$@"; }

# verdict NAME: 0 if the file $complaints is empty.
verdict() {
    if [[ -s $complaints ]]; then
        head -n 40 "$complaints"
        say "not ok - $1"
        add_result "0 1 0"
    else
        say "ok - $1"
        add_result "1 0 0"
    fi
}

# Bash scripts are known by their first line.
shell_scripts() {
    tracked | while read -r file; do
        if [[ -f $file ]] && head -n1 -- "$file" |
            grep -q '^#!/bin/bash\|^#!/bin/sh\|^# shellcheck shell='; then
            printf '%s\n' "$file"
        fi
    done
}

run_suite() {
    local complaints=$LOG_DIR/format.log files
    cd "$AIRLOCK_ROOT" || return

    # QEMU's C has QEMU's style.
    mapfile -t files < <(tracked '*.cpp' '*.hpp')
    clang-format --dry-run -Werror "${files[@]}" >"$complaints" 2>&1 || true
    verdict "clang-format finds nothing to change in ${#files[@]} files"

    mapfile -t files < <(shell_scripts)
    shellcheck -x "${files[@]}" >"$complaints" || true
    verdict "shellcheck finds nothing in ${#files[@]} scripts"

    # Mirrors come from the machine; paths of one machine are nobody's.
    mapfile -t files < <(tracked ':!tests/suites/format.sh')
    grep -nIE '(deb|security|snapshot|ftp)[a-z.]*\.debian\.org|/work/|/tmp/q/|/home/[a-z]' \
        "${files[@]}" >"$complaints" || true
    verdict "no package host and no private path in ${#files[@]} files"

    grep -nIE '\<(TODO|FIXME|XXX)\>|GTEST_SKIP' "${files[@]}" >"$complaints" ||
        true
    verdict "nothing left for later"
}

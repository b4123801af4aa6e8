# shellcheck shell=bash
# format: clang-format, shellcheck, no hosts or private paths in the files
# shellcheck disable=SC2034 # read by tools/check
needs=
# shellcheck source=tools/lib/debian-source.sh
source "$TOOLS/lib/debian-source.sh"

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

# private_names: an expression for what belongs to one machine. The hosts are
# those of its own apt and the package hosts of its distribution's domain, the
# paths its build directory, temporary ones, people's homes, and where it is
# checked out: the whole top directory if that is not a standard one. Checked
# out as /airlock, only what is in there: tests have such names.
private_names() {
    local domain host entries top=/${AIRLOCK_ROOT#/}
    top=/$(cut -d/ -f2 <<<"$top")
    case ${top#/} in
    bin | boot | dev | etc | home | lib* | media | mnt | opt | proc | root | \
        run | sbin | srv | sys | tmp | usr | var) top=$AIRLOCK_ROOT ;;
    esac
    if [[ $top == "$AIRLOCK_ROOT" ]]; then
        entries=$(tracked | cut -d/ -f1 | sort -u | paste -sd'|')
        top+="/(${entries//./\\.})"
    fi
    domain=$(. /etc/os-release && printf '%s' "${HOME_URL:-}" |
        sed -E 's|^[a-z]+://(www\.)?([^/]+).*|\2|; s/\./\\./g')
    # Without one, an expression that everything matches: a failure.
    printf '(deb|security|snapshot|ftp)[a-z.]*\\.%s' "${domain:-*}"
    configured_sources | sed -nE 's|^[a-z+]+://([^/ ]+).*|\1|p' | sort -u |
        while read -r host; do printf '|%s' "${host//./\\.}"; done
    # A path starts where no name goes before it: /a/b/ has no /b/ in it.
    printf '|(^|[^A-Za-z0-9_.*}-])(%s/|%s/|/tmp/[A-Za-z0-9_-]+/|/home/[a-z])' \
        "$top" "$(realpath -m "$AIRLOCK_BUILD")"
}

# complain STATUS COMMAND...: what COMMAND says goes to $complaints. A command
# that ends with more than STATUS did not look at the files at all.
complain() {
    local most=$1 status=0
    shift
    "$@" >"$complaints" 2>&1 </dev/null || status=$?
    [[ $status -le $most ]] || say "$1 ended with status $status" |
        tee -a "$complaints"
}

run_suite() {
    local complaints=$LOG_DIR/format.log files
    cd "$AIRLOCK_ROOT" || return

    # QEMU's C has QEMU's style.
    mapfile -t files < <(tracked '*.cpp' '*.hpp')
    complain 1 clang-format --dry-run -Werror "${files[@]:?}"
    verdict "clang-format finds nothing to change in ${#files[@]} files"

    mapfile -t files < <(shell_scripts)
    complain 1 shellcheck -x "${files[@]:?}"
    verdict "shellcheck finds nothing in ${#files[@]} scripts"

    mapfile -t files < <(tracked)
    complain 1 grep -nIE "$(private_names)" "${files[@]:?}"
    verdict "no package host and no private path in ${#files[@]} files"

    # In pieces, or this line would be found.
    complain 1 grep -nIE '\<(TO''DO|FIX''ME|X''XX)\>|GTEST_''SKIP' "${files[@]}"
    verdict "nothing left for later"
}

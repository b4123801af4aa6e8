# shellcheck shell=bash
# A private apt configuration: packages of another Debian suite, authenticated
# by apt, without a change to the machine's own configuration. The mirror is
# the one the machine already uses, so no host is named here.

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# configured_sources: "URI SUITE" for each binary source of the machine, from
# one-line files (*.list) and deb822 files (*.sources).
configured_sources() {
    local dir=/etc/apt files=()
    shopt -s nullglob
    files=("$dir"/sources.list "$dir"/sources.list.d/*.list)
    [[ ${#files[@]} -eq 0 ]] || awk '
        /^[ \t]*deb[ \t]/ {
            sub(/#.*/, "")
            gsub(/\[[^]]*\]/, "")
            if (NF >= 3) print $2, $3
        }' "${files[@]}" 2>/dev/null || true
    files=("$dir"/sources.list.d/*.sources)
    shopt -u nullglob
    [[ ${#files[@]} -eq 0 ]] || awk '
        function flush(  i, j, u, s, n, m) {
            if (types ~ /(^| )deb( |$)/ && enabled != "no") {
                n = split(uris, u, " ")
                m = split(suites, s, " ")
                for (i = 1; i <= n; i++)
                    for (j = 1; j <= m; j++)
                        print u[i], s[j]
            }
            types = uris = suites = enabled = field = ""
        }
        FNR == 1 && NR > 1 { flush() }
        /^#/ { next }
        /^[ \t]*$/ { flush(); next }
        {
            value = $0
            if ($0 !~ /^[ \t]/) {
                field = tolower($0)
                sub(/:.*/, "", field)
                sub(/^[^:]*:/, "", value)
            }
            gsub(/[ \t]+/, " ", value)
            sub(/^ /, "", value)
            sub(/ $/, "", value)
            if (field == "types") types = types " " value
            if (field == "uris") uris = uris " " value
            if (field == "suites") suites = suites " " value
            if (field == "enabled") enabled = tolower(value)
        }
        END { flush() }' "${files[@]}"
}

# debian_mirror main|security: the URIs the machine uses for its own release.
debian_mirror() {
    local kind=$1 codename names
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [[ -n $codename ]] || die "/etc/os-release names no Debian release"
    names="$codename|stable|oldstable|oldoldstable|testing"
    configured_sources | awk -v kind="$kind" -v names="^($names)" '
        $1 !~ /^(https?|ftp|file|copy|mirror|tor)/ { next }
        kind == "main" && $2 ~ (names "(-updates)?$") { print $1 }
        kind == "security" && $2 ~ (names "(-security|/updates)$") { print $1 }
    ' | sort -u
}

# private_apt DIR BINARY_SUITE SOURCE_SUITE...: writes DIR/apt.conf. Suites
# ending in "-security" come from the security mirror, if there is one.
private_apt() {
    local dir=$1 binary=$2 suite uri uris
    shift 2
    [[ -r $DEBIAN_KEYRING ]] ||
        die "$DEBIAN_KEYRING is missing; install debian-archive-keyring"
    [[ -n $(debian_mirror main) ]] || die "no Debian mirror found in" \
        "/etc/apt/sources.list and /etc/apt/sources.list.d: configure one," \
        "or use --source with local files"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    {
        for uri in $(debian_mirror main); do
            printf 'deb [signed-by=%s] %s %s main\n' \
                "$DEBIAN_KEYRING" "$uri" "$binary"
        done
        for suite in "$@"; do
            uris=$(debian_mirror main)
            [[ $suite != *-security ]] || uris=$(debian_mirror security)
            for uri in $uris; do
                printf 'deb-src [signed-by=%s] %s %s main\n' \
                    "$DEBIAN_KEYRING" "$uri" "$suite"
            done
        done
    } >"$dir/sources.list"
    # The sandbox user cannot write below a private directory, so the download
    # runs as the caller; what it fetches is checked against signed lists.
    cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
APT::Sandbox::User "$(id -un)";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
}

apt_private() {
    local dir=$1
    shift
    APT_CONFIG=$dir/apt.conf "$@"
}

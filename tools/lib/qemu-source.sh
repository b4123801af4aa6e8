# shellcheck shell=bash
# The QEMU source: fetching, checking, unpacking, and applying the series.
# Needs common.sh and debian-source.sh.
#
# The tree is kept in a git repository outside of the work tree. Each state
# (pristine, with the series, with our own files) is a git tree object, so a
# change of one patch rewrites only the files that differ and ninja compiles
# only those again. "git apply" knows no fuzz: context matches or it fails.

QEMU_BUILD=$AIRLOCK_BUILD/qemu
QEMU_DOWNLOAD=$QEMU_BUILD/download
QEMU_GIT=$QEMU_BUILD/git
QEMU_SRC=$QEMU_BUILD/src
PATCHES=$AIRLOCK_ROOT/qemu-patches
UPSTREAM=$PATCHES/upstream
OVERLAY=$AIRLOCK_ROOT/devmodel/qemu
CATALOG=$AIRLOCK_ROOT/devmodel/catalog/devices.def
CATALOG_IN_QEMU=include/hw/i386/airlock-devices.def

# upstream_field KEY: the values of a key in qemu-patches/upstream.
upstream_field() {
    awk -v key="$1" '$1 == key { $1 = ""; sub(/^ /, ""); print }' "$UPSTREAM"
}

# pinned_digest FILE: its SHA-256 in qemu-patches/upstream, empty if unknown.
pinned_digest() {
    awk -v name="$1" '$1 == "sha256" && $3 == name { print $2 }' "$UPSTREAM"
}

# series: the patch files in order.
series() {
    [[ -f $PATCHES/series ]] || return 0
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$PATCHES/series"
}

# git on the source repository; no user or system configuration takes part.
qgit() {
    GIT_DIR=$QEMU_GIT GIT_WORK_TREE=${QGIT_TREE:-$QEMU_SRC} \
    GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
    GIT_AUTHOR_NAME=airlock GIT_AUTHOR_EMAIL=airlock@localhost \
    GIT_COMMITTER_NAME=airlock GIT_COMMITTER_EMAIL=airlock@localhost \
    GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000' \
        git "$@"
}

# check_digest FILE [ACCEPTED]: against the pins or the digest the user gave.
check_digest() {
    local file=$1 accepted=${2:-} name want got
    name=$(basename "$file")
    want=$(pinned_digest "$name")
    got=$(sha256_of "$file")
    if [[ -n $accepted && $got == "$accepted" ]]; then
        return 0
    fi
    [[ -n $want ]] || die "$name: no digest in qemu-patches/upstream." \
        "If you trust this file, add: --accept-digest $got"
    [[ $got == "$want" ]] || die "$name: SHA-256 is $got but" \
        "qemu-patches/upstream says $want." \
        "If you trust this file, add: --accept-digest $got"
}

# choose_version: the pinned version if the mirror has it, else the highest
# one with the accepted prefix. Reads "Version:" lines on standard input.
choose_version() {
    local pinned accept version best=
    pinned=$(upstream_field version)
    accept=$(upstream_field accept)
    while read -r version; do
        [[ $version == "$accept"* ]] || continue
        if [[ $version == "$pinned" ]]; then
            best=$version
            break
        fi
        if [[ -z $best ]] || dpkg --compare-versions "$version" gt "$best"
        then
            best=$version
        fi
    done
    printf '%s\n' "$best"
}

# set_up_apt: the private configuration, refreshed at most once a day.
set_up_apt() {
    local apt=$QEMU_BUILD/apt codename suites
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    read -ra suites <<<"$(upstream_field suites)"
    private_apt "$apt" "$codename-backports" "${suites[@]}"
    if [[ -z $(find "$apt/updated" -mtime -1 2>/dev/null) ]]; then
        step "Reading the package lists of ${suites[*]}"
        logged apt-update apt_private "$apt" apt-get -q update
        touch "$apt/updated"
    fi
}

# fetch_source: download the Debian source package; prints the .dsc.
fetch_source() {
    local apt=$QEMU_BUILD/apt package pinned version dsc file
    package=$(upstream_field package)
    pinned=$(upstream_field version)
    mkdir -p "$QEMU_DOWNLOAD"
    dsc=$QEMU_DOWNLOAD/${package}_${pinned#*:}.dsc
    if [[ ! -f $dsc ]]; then
        set_up_apt >&2
        version=$(apt_private "$apt" apt-cache showsrc --only-source \
            "$package" | sed -n 's/^Version: //p' | choose_version)
        [[ -n $version ]] || die "the mirror has no $package" \
            "$(upstream_field accept)*; use --source with a local copy"
        if [[ $version != "$pinned" ]]; then
            warn "$package $pinned is gone from the mirror; using $version," \
                "which apt authenticated. The patches must apply to it."
        fi
        step "Downloading the source of $package $version" >&2
        (cd "$QEMU_DOWNLOAD" && logged qemu-download apt_private "$apt" \
            apt-get -q source --download-only --only-source \
            "$package=$version") >&2
        dsc=$QEMU_DOWNLOAD/${package}_${version#*:}.dsc
        [[ $version == "$pinned" ]] || {
            printf '%s\n' "$dsc"
            return
        }
    fi
    for file in $(dsc_files "$dsc") "$dsc"; do
        check_digest "$(dirname "$dsc")/$(basename "$file")"
    done
    printf '%s\n' "$dsc"
}

# dsc_files DSC: names of the files a .dsc consists of.
dsc_files() {
    awk '/^Checksums-Sha256:/ { on = 1; next } /^[^ ]/ { on = 0 }
         on && NF == 3 { print $3 }' "$1"
}

# local_source PATH [DIGEST]: check what the user gave; prints a .dsc or a
# tarball. A .dsc lists its files' digests, so its own digest covers them.
local_source() {
    local path=$1 accepted=${2:-} dsc name
    [[ -e $path ]] || die "--source $path: no such file or directory"
    path=$(realpath "$path")
    name=$(basename "$path")
    if [[ -d $path ]]; then
        dsc=$(find "$path" -maxdepth 1 -name 'qemu_*.dsc' | sort -V | tail -n1)
        [[ -n $dsc ]] || die "--source $path: no qemu_*.dsc in this directory"
        path=$dsc
    elif [[ $name == *.orig.tar.* ]]; then
        # The .dsc next to it brings Debian's patches and the digests.
        for dsc in "$(dirname "$path")"/qemu_*.dsc; do
            if [[ -f $dsc ]] && dsc_files "$dsc" | grep -qxF "$name" &&
                [[ -z $accepted ]]; then
                path=$dsc
                break
            fi
        done
    fi
    check_digest "$path" "$accepted"
    printf '%s\n' "$path"
}

# source_id SOURCE: a name for what is in it.
source_id() { sha256_of "$1" | cut -c1-16; }

# unpack SOURCE DIR
unpack() {
    local source=$1 dir=$2
    rm -rf "$dir"
    if [[ $source == *.dsc ]]; then
        # dpkg-source checks the digests in the .dsc and applies Debian's
        # patches. The signature on it is not what we rely on (see upstream).
        logged qemu-unpack dpkg-source --no-check --no-copy -x "$source" "$dir"
        rm -rf "$dir/.pc"
        return
    fi
    mkdir -p "$dir"
    logged qemu-unpack tar -x --strip-components=1 -C "$dir" -f "$source"
    [[ -f $dir/configure && -f $dir/VERSION ]] ||
        die "$source does not look like a QEMU source tarball"
    # Debian's repacked tarball lacks the bundled Python wheels; without them
    # configure would look for pycotap, which only QEMU's own functional tests
    # need. Debian's packaging removes the same line.
    if ! compgen -G "$dir/python/wheels/pycotap-*.whl" >/dev/null; then
        sed -i '/^pycotap = /d' "$dir/pythondeps.toml"
    fi
}

# pristine_tree SOURCE: prints the commit of the unpacked source, imported on
# first use and kept under a ref named by the source's digest.
pristine_tree() {
    local source=$1 ref unpacked=$QEMU_BUILD/unpack commit tree
    ref=refs/pristine/$(source_id "$source")
    [[ -d $QEMU_GIT ]] || git init -q --bare "$QEMU_GIT"
    if ! qgit rev-parse -q --verify "$ref"; then
        step "Unpacking $(basename "$source")" >&2
        unpack "$source" "$unpacked"
        export GIT_INDEX_FILE=$QEMU_GIT/index.pristine
        rm -f "$GIT_INDEX_FILE"
        QGIT_TREE=$unpacked qgit -c core.compression=1 -c core.autocrlf=false \
            -C "$unpacked" add -Af .
        tree=$(qgit write-tree)
        rm -f "$GIT_INDEX_FILE"
        unset GIT_INDEX_FILE
        commit=$(qgit commit-tree "$tree" -m "$(basename "$source") unpacked")
        qgit update-ref "$ref" "$commit"
        rm -rf "$unpacked"
        printf '%s\n' "$commit"
    fi
}

# apply_series BASE: prints the tree of BASE with every patch of the series.
# Each patch must apply with its whole context; offsets are reported.
apply_series() {
    local base=$1 patch tree log=$LOG_DIR/qemu-series.log index
    index=$QEMU_GIT/index.series
    mkdir -p "$LOG_DIR"
    : >"$log"
    rm -f "$index"
    GIT_INDEX_FILE=$index qgit read-tree "$base"
    while read -r patch; do
        [[ -f $PATCHES/$patch ]] ||
            die "qemu-patches/series names $patch, which does not exist"
        printf '%s\n' "--- $patch" >>"$log"
        GIT_INDEX_FILE=$index LC_ALL=C qgit apply --cached -v \
            --whitespace=nowarn "$PATCHES/$patch" >>"$log" 2>&1 || {
            sed -n "/^--- ${patch//\//\\/}/,\$p" "$log" >&2
            die "qemu-patches/$patch does not apply (no fuzz is allowed);" \
                "see docs/HACKING-qemu.md for how to rebase"
        }
    done < <(series)
    grep -B1 'offset' "$log" | grep -v '^--$' >&2 || true
    tree=$(GIT_INDEX_FILE=$index qgit write-tree)
    rm -f "$index"
    printf '%s\n' "$tree"
}

# overlay_files: "SOURCE<TAB>PATH IN QEMU" for every file that is wholly ours.
overlay_files() {
    if [[ -d $OVERLAY ]]; then
        (cd "$OVERLAY" && find . -type f ! -name '.*' -printf '%P\n' |
            LC_ALL=C sort) |
            while read -r path; do
                printf '%s\t%s\n' "$OVERLAY/$path" "$path"
            done
    fi
    [[ ! -f $CATALOG ]] || printf '%s\t%s\n' "$CATALOG" "$CATALOG_IN_QEMU"
}

# overlay_tree TREE: prints TREE with our own files added. None of them may
# hide a file of QEMU: what changes QEMU's files belongs into the series.
overlay_tree() {
    local tree=$1 index=$QEMU_GIT/index.overlay file path blob
    rm -f "$index"
    GIT_INDEX_FILE=$index qgit read-tree "$tree"
    overlay_files | while IFS=$'\t' read -r file path; do
        if qgit cat-file -e "$tree:$path" 2>/dev/null; then
            die "$path exists in QEMU: change it with a patch," \
                "not with a file in devmodel/qemu"
        fi
        blob=$(qgit hash-object -w --no-filters "$file")
        printf '100644 %s\t%s\n' "$blob" "$path"
    done | GIT_INDEX_FILE=$index qgit update-index --add --index-info
    GIT_INDEX_FILE=$index qgit write-tree
    rm -f "$index"
}

# check_out TREE: make QEMU_SRC equal to TREE; unchanged files are not touched.
check_out() {
    local tree=$1
    mkdir -p "$QEMU_SRC"
    if [[ -f $QEMU_GIT/index ]]; then
        qgit update-index -q --refresh >/dev/null || true
    fi
    qgit read-tree --reset -u "$tree"
}

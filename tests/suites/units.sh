# shellcheck shell=bash
# units: users, units and polkit under a real systemd, in a Debian guest
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny image-host"

# What is installed, and the tests' own files, as a disk.
make_units_disk() {
    local dir=$AIRLOCK_BUILD/units mib
    rm -rf "$dir"
    mkdir -p "$dir/files/test"
    "$TOOLS/install" --destdir "$dir/files" || return
    cp "$AIRLOCK_ROOT"/tests/units/host/* "$dir/files/test/" || return
    cp --sparse=always "$AIRLOCK_BUILD/images/debian12-tiny.raw" \
        "$dir/files/test/tiny.raw" || return
    mib=$(du -sm --apparent-size "$dir/files" | cut -f1)
    PATH=$PATH:/usr/sbin:/sbin logged units-disk mke2fs -q -F -t ext4 \
        -O ^has_journal -E root_owner=0:0 -m 0 -d "$dir/files" \
        "$dir/files.img" "$((mib * 5 / 4 + 16))M" || return
    rm -rf "$dir/files"
}

run_suite() {
    if make_units_disk; then
        AIRLOCK_UNITS_DISK=$AIRLOCK_BUILD/units/files.img meson_suite units
    else
        result="0 1 0"
    fi
}

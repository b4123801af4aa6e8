# shellcheck shell=bash
# What boot hosts on this machine are made of: the keys of a site and the images
# as they are shipped. Sourced after common.sh.

BOOT_HOST=$AIRLOCK_BUILD/boot-host

# boot_host_inputs: what the images are made from, as far as it changes here.
boot_host_inputs() {
    printf '%s\n' "$AIRLOCK_BUILD/cpp/bootsrv/machine/airlock-init-clean" \
        "$AIRLOCK_BUILD/cpp/bootsrv/machine/airlock-init-dirty" \
        "$AIRLOCK_BUILD/cpp/bootsrv/airlock-bootrun" \
        "$AIRLOCK_BUILD/qemu/boot/qemu-system-x86_64" \
        "$AIRLOCK_ROOT/tools/build-boot-image" \
        "$AIRLOCK_ROOT"/tools/boot-image/*
}

boot_host_is_current() {
    local input
    [[ -f $BOOT_HOST/clean.efi && -f $BOOT_HOST/dirty.efi ]] || return 1
    while read -r input; do
        [[ ! $input -nt $BOOT_HOST/clean.efi ]] || return 1
        [[ ! $input -nt $BOOT_HOST/dirty.efi ]] || return 1
    done < <(boot_host_inputs)
}

# build_boot_host: clean.efi, dirty.efi and site in BOOT_HOST. Returns at once
# when they are there and nothing they are made from is newer.
build_boot_host() {
    mkdir -p "$BOOT_HOST"
    [[ -d $BOOT_HOST/site ]] ||
        "$AIRLOCK_ROOT/tools/build-boot-image" --new-site "$BOOT_HOST/site"
    if boot_host_is_current; then
        step "boot images are up to date"
        return
    fi
    step "boot images"
    logged boot-host "$AIRLOCK_ROOT/tools/build-boot-image" \
        --site "$BOOT_HOST/site" --output "$BOOT_HOST"
}

# probe_image MODE DIR [OPTION...]: an image of that mode for tests and benches,
# in DIR: the real first process, and as its work a program that does what a
# test orders. Keys and kernel are in BOOT_PROBE.
BOOT_PROBE=$AIRLOCK_BUILD/modes
probe_image() {
    local mode=$1 to=$2
    shift 2
    logged "modes-image-$mode" "$AIRLOCK_ROOT/tools/build-boot-image" \
        --site "$BOOT_PROBE/site" --mode "$mode" --output "$to" \
        --kernel-cache "$BOOT_PROBE/kernel" \
        --init "$AIRLOCK_BUILD/cpp/tests/modes/modes_${mode}_probe" "$@"
}

probe_site() {
    mkdir -p "$BOOT_PROBE"
    [[ -d $BOOT_PROBE/site ]] ||
        "$AIRLOCK_ROOT/tools/build-boot-image" --new-site "$BOOT_PROBE/site"
}

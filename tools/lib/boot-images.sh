# shellcheck shell=bash
# What boot hosts on this machine are made of: the keys of a site and signed
# images, for people, tests and benches. Sourced after common.sh and progress.sh.

# As they are shipped.
BOOT_HOST=$AIRLOCK_BUILD/boot-host
# For tests and benches: the real first process of each mode, and as its work a
# program that does what a test orders.
# shellcheck disable=SC2034 # read by tools/bench and suite "modes"
BOOT_PROBE=$AIRLOCK_BUILD/modes

# site_in DIR: its keys, once: all of them or none.
site_in() {
    [[ ! -d $1/site ]] || return 0
    rm -rf "$1/site.new" && mkdir -p "$1" &&
        "$AIRLOCK_ROOT/tools/build-boot-image" --new-site "$1/site.new" &&
        mv "$1/site.new" "$1/site"
}

# boot_images DIR [OPTION...]: images of the site in DIR, in DIR. All take the
# kernel from one place.
boot_images() {
    local dir=$1
    shift
    site_in "$dir" &&
        logged "images-${dir##*/}" "$AIRLOCK_ROOT/tools/build-boot-image" \
            --site "$dir/site" --output "$dir" \
            --kernel-cache "$AIRLOCK_BUILD/boot-kernel" "$@"
}

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
    if boot_host_is_current; then
        step "boot images are up to date"
        return
    fi
    step "boot images"
    boot_images "$BOOT_HOST"
}

# probe_image HOME MODE DIR [OPTION...]: an image of that mode in DIR, with the
# site in HOME.
probe_image() {
    local home=$1 mode=$2 to=$3
    shift 3
    boot_images "$home" --mode "$mode" --output "$to" \
        --init "$AIRLOCK_BUILD/cpp/tests/modes/modes_${mode}_probe" "$@"
}

# shipped_suite NAME: the images as they are shipped, in capsules behind a
# switch.
# shellcheck disable=SC2034 # "result" is read by tools/check
shipped_suite() {
    if ! build_boot_host; then
        result="0 1 0"
        return
    fi
    AIRLOCK_BOOT_IMAGES=$BOOT_HOST meson_suite "$1"
}

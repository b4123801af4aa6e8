# shellcheck shell=bash
# Boot images for the suites with capsules. Sourced, after common.sh.

# site_in DIR: its keys, once.
site_in() {
    mkdir -p "$1"
    [[ -d $1/site ]] ||
        "$AIRLOCK_ROOT/tools/build-boot-image" --new-site "$1/site"
}

# boot_images DIR ARGUMENT...: images of the site in DIR. All suites take the
# kernel from one place.
boot_images() {
    local dir=$1
    shift
    site_in "$dir" &&
        logged "images-${dir##*/}" "$AIRLOCK_ROOT/tools/build-boot-image" \
            --site "$dir/site" --output "$dir" \
            --kernel-cache "$AIRLOCK_BUILD/boot-kernel" "$@"
}

# shipped_suite NAME: the images as they are shipped, in capsules behind a
# switch.
# shellcheck disable=SC2034 # "result" is read by tools/check
shipped_suite() {
    local images=$AIRLOCK_BUILD/boot-images-tests
    if ! boot_images "$images"; then
        result="0 1 0"
        return
    fi
    AIRLOCK_BOOT_IMAGES=$images meson_suite "$1"
}

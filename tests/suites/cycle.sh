# shellcheck shell=bash
# cycle: a guest through a capsule, clean, dirty, clean, behind a real switch
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() {
    local images=$AIRLOCK_BUILD/cycle
    mkdir -p "$images"
    [[ -d $images/site ]] ||
        "$TOOLS/build-boot-image" --new-site "$images/site" || return
    if ! logged cycle-images "$TOOLS/build-boot-image" \
        --site "$images/site" --output "$images"; then
        result="0 1 0"
        return
    fi
    AIRLOCK_BOOT_IMAGES=$images meson_suite cycle
}

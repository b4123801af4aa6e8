# shellcheck shell=bash
# soak: reboots from inside of one guest through the whole path, many times
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

# The limit of a test is for the CI count; more rounds get more time.
run_suite() {
    meson_suite soak --timeout-multiplier "$((1 + AIRLOCK_COUNT / 5))"
}

# shellcheck shell=bash
# capsule-pool: boot hosts as VMs side by side, made and kept by the real program
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

# As those of suite "modes": the real first process, the work a test's.
capsule_image() {
    boot_images "$images" --mode "$1" \
        --init "$CPP/tests/modes/modes_${1}_probe" \
        --add "$images/site/policy.pem=/policy.pem"
}

run_suite() {
    local images=$AIRLOCK_BUILD/capsule-pool
    if ! { capsule_image clean && capsule_image dirty; }; then
        result="0 1 0"
        return
    fi
    AIRLOCK_CAPSULE_IMAGES=$images meson_suite capsule-pool
}

# shellcheck shell=bash
# capsule-pool: boot hosts as VMs side by side, made and kept by the real program
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

# As those of suite "modes": the real first process, the work a test's.
run_suite() {
    local images=$AIRLOCK_BUILD/capsule-pool
    local policy=(--add "$images/site/policy.pem=/policy.pem")
    if ! { probe_image "$images" clean "$images" "${policy[@]}" &&
        probe_image "$images" dirty "$images" "${policy[@]}"; }; then
        result="0 1 0"
        return
    fi
    AIRLOCK_CAPSULE_IMAGES=$images meson_suite capsule-pool
}

# shellcheck shell=bash
# qtest: both machines: what they have, against the catalog; trap and devices
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qtest"

run_suite() {
    local build dir program
    # Ours: the trap under KVM (qtest has no vCPU that runs), and the boot
    # machine, which takes a firmware to be complete.
    meson_suite qtest
    for build in production boot; do
        dir=$AIRLOCK_BUILD/qemu/$build
        for program in "$dir"/tests/qtest/airlock*-test; do
            [[ -x $program ]] || continue
            QTEST_QEMU_BINARY=$dir/qemu-system-x86_64 \
                tap_program "qtest-$build-${program##*/}.log" \
                "$program" --tap
        done
    done
}

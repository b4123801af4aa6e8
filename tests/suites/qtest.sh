# shellcheck shell=bash
# qtest: our devices in both QEMUs, driven by QEMU's own qtest
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qtest"

run_suite() {
    local build dir program
    # Tests of the trap under KVM are ours: qtest has no vCPU that runs.
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

# shellcheck shell=bash
# qtest: our devices in both QEMUs, driven by QEMU's own qtest
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qtest"

run_suite() {
    local build dir
    # Tests of the trap under KVM are ours: qtest has no vCPU that runs.
    meson_suite qtest
    for build in production boot; do
        dir=$AIRLOCK_BUILD/qemu/$build
        QTEST_QEMU_BINARY=$dir/qemu-system-x86_64 \
            tap_program "qtest-$build.log" \
            "$dir/tests/qtest/airlock-test" --tap
    done
}

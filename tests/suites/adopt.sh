# shellcheck shell=bash
# adopt: six kinds of domains converted or refused, shown to a real libvirt
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() {
    meson_suite adopt
    tap_program adopt-libvirt.log \
        "$AIRLOCK_ROOT/tests/adopt/libvirt-define.sh" \
        "$CPP/tools/airlockctl/airlockctl" \
        "$AIRLOCK_BUILD/qemu/production/qemu-system-x86_64" \
        "$AIRLOCK_ROOT"/tests/data/adopt/*.out.xml
}

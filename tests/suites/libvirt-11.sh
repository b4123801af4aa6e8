# shellcheck shell=bash
# libvirt-11: as libvirt, with the libvirt of Debian's backports
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() {
    local root
    root=$("$TOOLS/fetch-libvirt") || { result="0 1 0" && return; }
    AIRLOCK_LIBVIRT_ROOT=$root meson_suite libvirt
}

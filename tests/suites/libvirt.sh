# shellcheck shell=bash
# libvirt: a domain that reboots through both daemons
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() { meson_suite libvirt; }

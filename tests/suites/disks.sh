# shellcheck shell=bash
# disks: one domain with a qcow2, a raw, a read-only and an NBD disk
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { meson_suite disks; }

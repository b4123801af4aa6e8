# shellcheck shell=bash
# hostile-peer: boot server against peers that mean no good
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() { meson_suite hostile-peer; }

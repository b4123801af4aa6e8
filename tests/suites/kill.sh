# shellcheck shell=bash
# kill: what a reboot depends on dies at each stage, the guest comes back
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() { meson_suite kill; }

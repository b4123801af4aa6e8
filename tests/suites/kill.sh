# shellcheck shell=bash
# kill: what a reboot depends on dies or fills up, nothing is lost
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { meson_suite kill; }

# shellcheck shell=bash
# machine: clean mode, dirty mode, clean mode, each a process; with a guest
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { meson_suite machine; }

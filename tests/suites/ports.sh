# shellcheck shell=bash
# ports: every I/O port of the production machine, from inside a guest
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() { meson_suite ports; }

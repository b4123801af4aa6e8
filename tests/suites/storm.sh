# shellcheck shell=bash
# storm: twelve guests of two tenants are reset at once, all come back
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { meson_suite storm; }

# shellcheck shell=bash
# hostile-state: streams and bundles that must be refused
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() { meson_suite hostile-state; }

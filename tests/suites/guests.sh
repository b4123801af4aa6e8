# shellcheck shell=bash
# guests: Debian guests through the whole hand-over and back
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-standard image-cloud"

run_suite() { meson_suite guests; }

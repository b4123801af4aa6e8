# shellcheck shell=bash
# boot-server: jobs through a real boot server, and its death half way
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() { meson_suite boot-server; }

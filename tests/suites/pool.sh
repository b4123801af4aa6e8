# shellcheck shell=bash
# pool: boot servers fail and die; alerts, the next server, held, retry
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-cloud"

run_suite() { meson_suite pool; }
